"""What a store of deliveries costs an attempt: the time it adds, CPU, and memory of a record.

Events of many users go to one channel that takes half to one and a half times `channel_ms` and
always delivers, so many in flight at a time as told. What an attempt takes beyond its channel is
the store's.
"""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import Iterator
from statistics import quantiles
from typing import Final

import msgspec
import uvloop

from bench.parts import child
from dispatch.delivery import Delivery
from dispatch.destinations.channels import OnceDestination
from dispatch.once.opening import open_store
from dispatch.once.remembered import Remembered
from dispatch.once.store import Mark, Names, Record, unix_ms
from dispatch.outcome import Delivered, Outcome
from keylane.broker import Broker, Position
from keylane.event import Event, to_message
from keylane.memory import MemoryBroker

_TTL_S: Final = 3_600.0
_WARM_UP: Final = 500
_TOPIC: Final = "bench-once"


class Options(msgspec.Struct):
    #: As in `once.store`.
    url: str
    count: int = 20_000
    in_flight: int = 64
    channel_ms: float = 20.0
    users: int = 1_000
    #: For stores with a topic.
    service_url: str = ""


class Result(msgspec.Struct):
    added_p50_ms: float
    added_p99_ms: float
    added_max_ms: float
    events_s: float
    cpu_us: float
    #: What an event costs the same process without a store.
    cpu_without_us: float
    bytes_each: float
    unasked: int
    unrecorded: int


class _Message:
    """An event as it comes from the broker."""

    redelivery_count = 0
    publish_time_ms = 0

    def __init__(self, number: int, users: int) -> None:
        user = f"user-{number % users}"
        event = Event(id=f"event-{number}", user=user, payload=b"{}", accepted_at_ms=1)
        message = to_message(event)
        self.key = message.key
        self.event_time_ms = message.event_time_ms
        self.position: Position = (1, number, -1)
        self._properties = dict(message.properties)

    def value(self) -> bytes:
        return b"{}"

    def properties(self) -> dict[str, str]:
        return self._properties


class _Channel:
    def __init__(self, channel_s: float) -> None:
        self._channel_s = channel_s
        self._random = random.Random(1)
        self.took_s: dict[str, float] = {}

    async def attempt(self, delivery: Delivery) -> Outcome:
        began = time.perf_counter()
        await asyncio.sleep(self._channel_s * self._random.uniform(0.5, 1.5))
        self.took_s[delivery.event.id] = time.perf_counter() - began
        return Delivered()

    async def close(self) -> None:
        pass


class _Run:
    def __init__(self, options: Options, channel: _Channel, once: OnceDestination | None) -> None:
        self._options = options
        self._channel = channel
        self._destination = once or channel
        self.added_ms: list[float] = []

    async def attempt(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            delivery = Delivery(_Message(number, self._options.users), 0, 1)
            began = time.perf_counter()
            await self._destination.attempt(delivery)
            took_s = time.perf_counter() - began
            own_s = self._channel.took_s.pop(delivery.event.id)
            self.added_ms.append((took_s - own_s) * 1000)

    async def all(self, first: int, count: int) -> tuple[float, float]:
        """Seconds, and CPU microseconds an event."""
        self.added_ms.clear()
        numbers = iter(range(first, first + count))
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(self.attempt(numbers) for _ in range(self._options.in_flight)))
        return time.perf_counter() - began, (time.process_time() - cpu) / count * 1e6


async def _measure(options: Options) -> Result:
    broker = _broker(options.service_url)
    channel = _Channel(options.channel_ms / 1000)
    store = open_store(options.url, broker=broker, topic=_TOPIC, destination="bench", ttl_s=_TTL_S)
    once = OnceDestination("bench", {"": channel}, store, topic=_TOPIC)
    await once.open()
    # Not those of a run before: they would be found.
    first = time.time_ns()
    _, without_us = await _Run(options, channel, None).all(first, options.count)
    run = _Run(options, channel, once)
    await run.all(first, _WARM_UP)
    seconds, cpu_us = await run.all(first + _WARM_UP, options.count)
    percentiles = quantiles(run.added_ms, n=100)
    await once.close()
    await broker.close()
    return Result(
        percentiles[49],
        percentiles[98],
        max(run.added_ms),
        options.count / seconds,
        cpu_us,
        without_us,
        _bytes_each(options.count),
        once.counts.unasked,
        once.counts.unrecorded,
    )


def _broker(service_url: str) -> Broker:
    if not service_url:
        return MemoryBroker()
    from keylane.pulsar import PulsarBroker

    return PulsarBroker(service_url)


def _bytes_each(count: int) -> float:
    """Of a record in a process's memory: with the store in memory, and with a topic's."""
    names = Names(_TOPIC, "bench")
    remembered = Remembered(_TTL_S)
    tracemalloc.start()
    for number in range(count):
        name = names.name("", f"user-{number % 1_000}", f"event-{number}")
        remembered.put(name, Record(Mark.DELIVERED, "bench", unix_ms()))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / count


if __name__ == "__main__":
    child.tell(uvloop.run(_measure(child.begin(Options))))
