"""The yardstick of ingest: events into the topic by the bare client, as fast as it takes them.

One unbatched producer a partition, as ingest has them. `as_ingest` lays the events out as ingest
does, to load a topic before a measurement; else they are key, payload and always the same
properties, if any.
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
    #: Properties that every message has, made once.
    properties: dict[str, str] = {}
    #: So many events; 0 is as many as go into the time.
    count: int = 0
    #: Number of the first event.
    first: int = 0
    #: What the users' names begin with.
    kind: str = "user"
    warm_s: float = 0.0
    measure_s: float = 0.0


class Result(msgspec.Struct):
    events: int
    seconds: float
    cpu_s: float
    peak_mib: float


class Confirmed:
    """What the broker said of all that was sent."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: str | None = None

    def __call__(self, result: Any, _message_id: Any) -> None:
        self.count += 1
        if result != pulsar.Result.Ok:
            self.failure = str(result)


class _Mark:
    """Where things stand at a moment, and what happened since an earlier one."""

    def __init__(self, confirmed: Confirmed) -> None:
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
    numbers: Iterable[int] = itertools.count(options.first)
    if options.count:
        numbers = range(options.first, options.first + options.count)
    for number in numbers:
        key = user(number, options.users, options.kind)
        if options.as_ingest:
            yield message_of_ingest(number, key)
        else:
            yield OutgoingMessage(key, payload(number), options.properties, 0)


def message_of_ingest(number: int, key: str) -> OutgoingMessage:
    """An event that is accepted now."""
    now_ms = time.time_ns() // 1_000_000
    return to_message(Event(new_event_id(), key, payload(number), accepted_at_ms=now_ms))


class Sender:
    """One unbatched producer a partition, which may have as many under way as the client allows."""

    def __init__(self, client: Any, topic: str, partitions: int) -> None:
        self._producers = [
            client.create_producer(
                partition_topic(topic, partition), batching_enabled=False, block_if_queue_full=True
            )
            for partition in range(partitions)
        ]
        self.confirmed = Confirmed()
        self._sent = 0

    def send(self, message: OutgoingMessage) -> None:
        self._sent += 1
        producer = self._producers[partition_of(message.key, len(self._producers))]
        producer.send_async(
            message.value,
            self.confirmed,
            partition_key=message.key,
            properties=message.properties or None,
            event_timestamp=message.event_time_ms or None,
        )

    def wait_confirmed(self) -> None:
        """Raises `BenchError` unless all that was sent is confirmed in time."""
        deadline = time.monotonic() + _CONFIRMED_WITHIN_S
        confirmed = self.confirmed
        while confirmed.count < self._sent and time.monotonic() < deadline:
            time.sleep(0.002)
        if confirmed.count < self._sent or confirmed.failure:
            raise BenchError(
                f"{confirmed.count} of {self._sent} events were confirmed; {confirmed.failure}"
            )


def _send_all(sender: Sender, options: Options) -> Result:
    began = _Mark(sender.confirmed)
    for message in _messages(options):
        sender.send(message)
    sender.wait_confirmed()
    return _Mark(sender.confirmed).since(began)


def _send_for_a_time(sender: Sender, options: Options) -> Result:
    confirmed = sender.confirmed
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
        for message in itertools.islice(messages, _TURN):
            sender.send(message)
    sender.wait_confirmed()
    began, ended = marks
    return ended.since(began)


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    send = _send_all if options.count else _send_for_a_time
    try:
        return send(Sender(client, options.topic, options.partitions), options)
    finally:
        client.close()


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
