"""The broker's port in memory: sessions with a `MemoryCluster`, as a client of Pulsar behaves.

`deliver` is only ever called by the event loop itself, never from within a call of the port.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from keylane.broker import DEFAULT_PREFETCH, Deliver, OutgoingMessage, Position, Receipt, Received
from keylane.errors import BrokerError, BrokerUnavailable, EventTooLarge, PublishUnconfirmed
from keylane.memorycluster import Feed, MemoryCluster
from keylane.memorytable import MemoryTable
from keylane.names import channel_topic, full_topic
from keylane.partitionlog import MemoryMessage
from keylane.routing import partition_of

#: How many messages are handed to `deliver` at once.
MAX_BATCH: Final = 500
#: How often Pulsar's client looks for what is due for redelivery, within the delay.
TICKS_PER_DELAY: Final = 3


class MemoryPublisher:
    """Stores at once: `done` is called before `send` returns."""

    def __init__(self, cluster: MemoryCluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(topic)
        self._is_closed = False

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        if error := self._refusal(message):
            done(error)
            return
        partitions = self._topic.partitions
        partition = partitions[partition_of(message.key, len(partitions))]
        position = partition.log.append(message, self._cluster.settings.now_ms())
        partition.wake()
        done(position)

    def _refusal(self, message: OutgoingMessage) -> BrokerError | None:
        if self._is_closed:
            return BrokerUnavailable("The publisher is closed; nothing was sent.")
        if len(message.value) > self._cluster.settings.max_message_bytes:
            return EventTooLarge()
        if not self._cluster.is_up:
            return PublishUnconfirmed()
        return self._topic.refusal

    def is_connected(self) -> bool:
        return self._cluster.is_up and not self._is_closed

    async def close(self) -> None:
        self._is_closed = True


class MemoryConsumer:
    """A consumer and the queue of what its client has fetched ahead.

    Tests that want it cut off use `MemoryCluster.disconnect`; `is_cut` keeps it from coming back.
    """

    def __init__(
        self,
        cluster: MemoryCluster,
        feed: Feed,
        partition: int,
        name: str,
        deliver: Deliver,
        prefetch: int,
    ) -> None:
        self.is_cut = False
        self._cluster = cluster
        self._feed = feed
        self._partition = partition
        self._name = name
        self._deliver = deliver
        self._prefetch = prefetch
        self._loop = asyncio.get_running_loop()
        self._queue: deque[MemoryMessage] = deque()
        self._due: deque[tuple[float, Position]] = deque()
        self._redelivery: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_scheduled = False
        self._is_closed = False

    @property
    def partition(self) -> int:
        return self._partition

    def is_connected(self) -> bool:
        return self._feed.connected.get(self._name) is self

    def connect(self) -> None:
        if self._is_closed or self.is_cut or not self._cluster.is_up or self.is_connected():
            return
        # What it had fetched before may be another's by now, and is sent again if it is not.
        self._queue.clear()
        self._feed.subscription.join(self._name, self._prefetch)
        self._feed.connected[self._name] = self
        self._feed.wake()

    def disconnect(self) -> None:
        if self.is_connected():
            del self._feed.connected[self._name]
            self._feed.subscription.leave(self._name)
            self._feed.wake()

    def vanish(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._cluster.remove(self)
        if self._redelivery:
            self._redelivery.cancel()
        self._queue.clear()
        self.disconnect()

    def take(self, message: MemoryMessage) -> None:
        self._queue.append(message)
        self._schedule()

    def _schedule(self) -> None:
        if self._queue and not self._is_paused and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._is_scheduled = False
        if self._is_paused or not self._queue or not self.is_connected():
            return
        batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
        self._feed.subscription.permits(self._name, len(batch))
        self._feed.wake()
        try:
            self._deliver(self._partition, batch)
        finally:
            self._schedule()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._schedule()

    def acknowledge(self, messages: Iterable[Received]) -> None:
        if self.is_connected():
            for message in messages:
                self._feed.subscription.acknowledge(self._name, message.position)
            self._feed.wake()

    def negative_acknowledge(self, positions: Sequence[Position]) -> None:
        if not positions or self._is_closed:
            return
        due = self._loop.time() + self._cluster.settings.redelivery_delay_s
        self._due.extend((due, position) for position in positions)
        # Re-armed at every call, as Pulsar's client does: calls that come too often never end.
        self._arm()

    def _arm(self) -> None:
        if self._redelivery:
            self._redelivery.cancel()
        tick_s = self._cluster.settings.redelivery_delay_s / TICKS_PER_DELAY
        self._redelivery = self._loop.call_later(tick_s, self._give_back)

    def _give_back(self) -> None:
        self._redelivery = None
        now = self._loop.time()
        given_back: list[Position] = []
        while self._due and self._due[0][0] <= now:
            given_back.append(self._due.popleft()[1])
        if self._due:
            self._arm()
        if self.is_connected():
            self._feed.subscription.negative_acknowledge(self._name, given_back)
            self._feed.wake()

    async def confirm(self) -> None:
        await asyncio.sleep(0)
        if not self.is_connected():
            raise BrokerUnavailable

    async def close(self) -> None:
        self.vanish()


class MemoryChannel:
    """Says nothing while the cluster is down."""

    def __init__(self, cluster: MemoryCluster, name: str, hear: Callable[[bytes], None]) -> None:
        self._cluster = cluster
        self._listeners = cluster.listeners.setdefault(name, [])
        self._hear = hear
        self._listeners.append(hear)

    def say(self, what: bytes) -> None:
        if self._cluster.is_up:
            loop = asyncio.get_running_loop()
            for hear in self._listeners:
                loop.call_soon(hear, what)

    async def close(self) -> None:
        if self._hear in self._listeners:
            self._listeners.remove(self._hear)


class MemoryBroker:
    """One session with a cluster; with one of its own unless it is given one."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self._opened: list[MemoryPublisher | MemoryConsumer | MemoryChannel | MemoryTable] = []

    async def partitions(self, topic: str) -> int:
        self._require_up()
        return self.cluster.partitions(topic)

    async def publisher(
        self,
        topic: str,
        *,
        name: str | None = None,  # noqa: ARG002  nothing is ever sent twice here
        deduplicate: bool = False,  # noqa: ARG002
    ) -> MemoryPublisher:
        self._require_up()
        publisher = MemoryPublisher(self.cluster, topic)
        self._opened.append(publisher)
        return publisher

    async def subscribe(
        self,
        topic: str,
        partition: int,
        subscription: str,
        consumer_name: str,
        deliver: Deliver,
        *,
        prefetch: int = DEFAULT_PREFETCH,
    ) -> MemoryConsumer:
        self._require_up()
        feed = self.cluster.feed(self.cluster.partition(topic, partition), subscription)
        consumer = MemoryConsumer(self.cluster, feed, partition, consumer_name, deliver, prefetch)
        self.cluster.add(consumer)
        self._opened.append(consumer)
        return consumer

    async def channel(self, name: str, hear: Callable[[bytes], None]) -> MemoryChannel:
        self._require_up()
        channel = MemoryChannel(self.cluster, channel_topic(name), hear)
        self._opened.append(channel)
        return channel

    async def table(self, topic: str, hear: Callable[[str, bytes], None]) -> MemoryTable:
        self._require_up()
        table = MemoryTable(self.cluster, full_topic(topic), hear)
        self._opened.append(table)
        return table

    def _require_up(self) -> None:
        if not self.cluster.is_up:
            raise BrokerUnavailable

    async def close(self) -> None:
        opened, self._opened = self._opened, []
        for closable in opened:
            await closable.close()
