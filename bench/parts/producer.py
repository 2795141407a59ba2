"""The yardstick of ingest: events into the topic by the bare client, as fast as it takes them.

One unbatched producer a partition, as ingest has them. `as_ingest` lays the events out as ingest
does, to load a topic before a measurement; else they are key and payload alone.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pulsar

from bench.errors import BenchError
from bench.events import payload, user
from bench.machine import own_peak_mib
from bench.parts import child
from keylane.broker import OutgoingMessage
from keylane.event import Event, new_event_id, to_message
from keylane.names import partition_topic
from keylane.routing import partition_of

#: Sends between two looks at the clock.
_TURN = 64
_CONFIRMED_WITHIN_S = 60.0


class Options(msgspec.Struct):
    service_url: str
    topic: str
    partitions: int
    users: int
    as_ingest: bool = False
    #: So many events; 0 is as many as go into the time.
    count: int = 0
    warm_s: float = 0.0
    measure_s: float = 0.0


class Result(msgspec.Struct):
    events: int
    seconds: float
    cpu_s: float
    peak_mib: float


class _Confirmed:
    def __init__(self) -> None:
        self.count = 0
        self.failure: str | None = None

    def __call__(self, result: Any, _message_id: Any) -> None:
        self.count += 1
        if result != pulsar.Result.Ok:
            self.failure = str(result)


class _Mark:
    """Where things stand at a moment, and what happened since an earlier one."""

    def __init__(self, confirmed: _Confirmed) -> None:
        self._confirmed = confirmed.count
        self._at = time.monotonic()
        self._cpu_s = time.process_time()

    def since(self, earlier: _Mark) -> Result:
        return Result(
            self._confirmed - earlier._confirmed,
            self._at - earlier._at,
            self._cpu_s - earlier._cpu_s,
            own_peak_mib(),
        )


def _messages(options: Options) -> Iterator[OutgoingMessage]:
    numbers: Iterable[int] = range(options.count) if options.count else itertools.count()
    for number in numbers:
        key = user(number, options.users)
        if options.as_ingest:
            now_ms = time.time_ns() // 1_000_000
            event = Event(new_event_id(), key, payload(number), accepted_at_ms=now_ms)
            yield to_message(event)
        else:
            yield OutgoingMessage(key, payload(number), {}, 0)


class _Sender:
    def __init__(self, producers: list[Any], confirmed: _Confirmed) -> None:
        self._producers = producers
        self._confirmed = confirmed
        self._sent = 0

    def send_all(self, messages: Iterable[OutgoingMessage]) -> None:
        for message in messages:
            self._sent += 1
            producer = self._producers[partition_of(message.key, len(self._producers))]
            producer.send_async(
                message.value,
                self._confirmed,
                partition_key=message.key,
                properties=message.properties or None,
                event_timestamp=message.event_time_ms or None,
            )

    def wait_confirmed(self) -> None:
        """Raises `BenchError` unless all that was sent is confirmed in time."""
        deadline = time.monotonic() + _CONFIRMED_WITHIN_S
        while self._confirmed.count < self._sent and time.monotonic() < deadline:
            time.sleep(0.002)
        if self._confirmed.count < self._sent or self._confirmed.failure:
            raise BenchError(
                f"{self._confirmed.count} of {self._sent} events were confirmed; "
                f"{self._confirmed.failure}"
            )


def _send_all(sender: _Sender, options: Options, confirmed: _Confirmed) -> Result:
    began = _Mark(confirmed)
    sender.send_all(_messages(options))
    sender.wait_confirmed()
    return _Mark(confirmed).since(began)


def _send_for_a_time(sender: _Sender, options: Options, confirmed: _Confirmed) -> Result:
    marks: list[_Mark] = []
    messages = _messages(options)
    over = threading.Event()

    def watch() -> None:
        time.sleep(options.warm_s)
        marks.append(_Mark(confirmed))
        time.sleep(options.measure_s)
        marks.append(_Mark(confirmed))
        over.set()

    threading.Thread(target=watch).start()
    while not over.is_set():
        sender.send_all(itertools.islice(messages, _TURN))
    sender.wait_confirmed()
    began, ended = marks
    return ended.since(began)


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    producers = [
        client.create_producer(
            partition_topic(options.topic, partition),
            batching_enabled=False,
            block_if_queue_full=True,
        )
        for partition in range(options.partitions)
    ]
    confirmed = _Confirmed()
    send = _send_all if options.count else _send_for_a_time
    try:
        return send(_Sender(producers, confirmed), options, confirmed)
    finally:
        client.close()


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
