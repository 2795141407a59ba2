"""A topic, those who publish to it, and those who take from it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from keylane.broker import Broker, Consumer, OutgoingMessage, Position, Publisher, Receipt, Received
from tests.contract.clusters import Cluster
from tests.waiting import until

React: TypeAlias = Callable[["Worker", Sequence[Received]], None]


def do_nothing(worker: Worker, batch: Sequence[Received]) -> None:
    """Leave everything unacknowledged."""


class Worker:
    """A consumer that keeps what it gets; what it does with it is up to `react`."""

    def __init__(self, react: React) -> None:
        self.received: list[Received] = []
        self.consumer: Consumer
        self._react = react

    def deliver(self, partition: int, batch: Sequence[Received]) -> None:
        assert partition == self.consumer.partition
        self.received.extend(batch)
        self._react(self, batch)

    def values(self, *keys: str) -> list[str]:
        """The payloads received, all or those of some keys."""
        return [m.value().decode() for m in self.received if not keys or m.key in keys]

    def keys(self) -> set[str]:
        return {m.key for m in self.received}

    def of(self, key: str) -> list[Received]:
        return [m for m in self.received if m.key == key]

    async def gets(self, *values: str) -> None:
        """Wait until exactly these have come, in this order."""
        await until(lambda: len(self.received) >= len(values), saying=self.values)
        assert self.values() == list(values), self.values()


class Scene:
    """A topic of the test's own, and people on it."""

    def __init__(self, cluster: Cluster, broker: Broker, topic: str) -> None:
        self.cluster = cluster
        self.broker = broker
        self.topic = topic
        self._publishers: dict[str, Publisher] = {}
        self._names = (f"worker-{n}" for n in itertools.count(1))

    async def worker(
        self,
        *,
        subscription: str = "crm",
        partition: int = 0,
        name: str = "",
        broker: Broker | None = None,
        react: React = do_nothing,
    ) -> Worker:
        worker = Worker(react)
        worker.consumer = await (broker or self.broker).subscribe(
            self.topic, partition, subscription, name or next(self._names), worker.deliver
        )
        return worker

    async def send(self, message: OutgoingMessage, topic: str = "") -> Receipt:
        """Publish one message and wait for what became of it."""
        topic = topic or self.topic
        if topic not in self._publishers:
            self._publishers[topic] = await self.broker.publisher(topic)
        loop = asyncio.get_running_loop()
        receipt: asyncio.Future[Receipt] = loop.create_future()

        def done(result: Receipt) -> None:
            loop.call_soon_threadsafe(receipt.set_result, result)

        self._publishers[topic].send(message, done)
        return await receipt

    async def publish(self, key: str, *values: str) -> list[Position]:
        """Store these payloads under the key, in order."""
        messages = [OutgoingMessage(key, value.encode()) for value in values]
        receipts = [await self.send(message) for message in messages]
        assert all(isinstance(receipt, tuple) for receipt in receipts), receipts
        return [receipt for receipt in receipts if isinstance(receipt, tuple)]

    async def backlog(self, subscription: str = "crm") -> int:
        return await self.cluster.backlog(self.topic, subscription)

    async def backlog_is(self, expected: int, subscription: str = "crm") -> None:
        async def is_reached() -> bool:
            return await self.backlog(subscription) == expected

        await until(is_reached)
