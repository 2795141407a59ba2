"""A cluster in memory: topics, subscriptions, and the faults that a test may cause.

Everything happens on one event loop, and messages reach a consumer only from the loop itself. What
is sent to whom is decided in keylane/keyshared.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from keylane.broker import Received
from keylane.errors import BrokerError
from keylane.keyshared import (
    LOOK_AHEAD,
    LOOK_AHEAD_PER_CONSUMER,
    RING_POINTS,
    KeySharedSubscription,
)
from keylane.names import full_topic, partition_topic
from keylane.partitionlog import MemoryMessage, PartitionLog


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """What stock Pulsar and its client would have configured.

    The look-ahead limits are positions in the replay queue, a consumer and in all, at which nothing
    new is read. `reconnect_delay_s` is how long consumers stay away when a topic is unloaded.
    """

    redelivery_delay_s: float = 0.1
    reconnect_delay_s: float = 0.05
    max_message_bytes: int = 5 * 1024 * 1024
    ring_points: int = RING_POINTS
    look_ahead_per_consumer: int = LOOK_AHEAD_PER_CONSUMER
    look_ahead: int = LOOK_AHEAD
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class Member(Protocol):
    """What the cluster does with a consumer."""

    #: Cut off by a fault; it does not come back by itself.
    is_cut: bool

    def take(self, message: MemoryMessage) -> None: ...

    def connect(self) -> None:
        """Join, unless it has or can't; then everything that is its own is sent again."""
        ...

    def disconnect(self) -> None: ...

    def vanish(self) -> None:
        """End for good, without a word to the broker or to who takes the messages."""
        ...


class Feed:
    """A subscription on one partition and the consumers it sends to."""

    def __init__(self, subscription: KeySharedSubscription) -> None:
        self.subscription = subscription
        self.connected: dict[str, Member] = {}
        self._is_due = False

    def wake(self) -> None:
        if self.connected and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_due = False
        for name, message in self.subscription.dispatch():
            self.connected[name].take(message)


@dataclass(slots=True)
class _Partition:
    log: PartitionLog = field(default_factory=PartitionLog)
    feeds: dict[str, Feed] = field(default_factory=dict)

    def wake(self) -> None:
        for feed in self.feeds.values():
            feed.wake()


@dataclass(slots=True)
class _Topic:
    """`is_partitioned` is False for a plain topic, which has its messages in one partition."""

    partitions: list[_Partition]
    is_partitioned: bool
    refusal: BrokerError | None = None


class MemoryCluster:
    """The topics, and the ways to disturb whoever uses them.

    A topic nobody created comes into being unpartitioned when it is published to, as in stock
    Pulsar; a consumer on a partition that does not exist gets a topic of its own, which nobody
    publishes to.
    """

    def __init__(self, settings: MemorySettings | None = None) -> None:
        self.settings = settings or MemorySettings()
        self.is_up = True
        self._topics: dict[str, _Topic] = {}
        self.listeners: dict[str, list[Callable[[bytes], None]]] = {}
        self.table_listeners: dict[str, list[Callable[[str, bytes], None]]] = {}
        self._consumers: list[Member] = []

    def create_topic(self, topic: str, partitions: int = 0) -> None:
        """Create a topic; 0 partitions makes a plain one, for dead letters."""
        parts = [_Partition() for _ in range(max(1, partitions))]
        if (
            self._topics.setdefault(full_topic(topic), made := _Topic(parts, partitions > 0))
            is not made
        ):
            raise ValueError(f"There is a topic '{topic}' already")

    def create_subscription(self, topic: str, subscription: str) -> None:
        """Make sure that the subscription exists on every partition, from the first message."""
        for partition in self.topic(topic).partitions:
            self.feed(partition, subscription)

    def topic(self, topic: str) -> _Topic:
        return self._topics.setdefault(
            full_topic(topic), _Topic([_Partition()], is_partitioned=False)
        )

    def partitions(self, topic: str) -> int:
        found = self._topics.get(full_topic(topic))
        return len(found.partitions) if found and found.is_partitioned else 0

    def partition(self, topic: str, partition: int) -> _Partition:
        if partition < self.partitions(topic):
            return self.topic(topic).partitions[partition]
        return self.topic(partition_topic(topic, partition)).partitions[0]

    def feed(self, partition: _Partition, subscription: str) -> Feed:
        if subscription not in partition.feeds:
            settings = self.settings
            partition.feeds[subscription] = Feed(
                KeySharedSubscription(
                    partition.log,
                    ring_points=settings.ring_points,
                    look_ahead_per_consumer=settings.look_ahead_per_consumer,
                    look_ahead=settings.look_ahead,
                )
            )
        return partition.feeds[subscription]

    def add(self, consumer: Member) -> None:
        consumer.connect()
        self._consumers.append(consumer)

    def remove(self, consumer: Member) -> None:
        self._consumers.remove(consumer)

    def messages(self, topic: str) -> list[Received]:
        """All that was ever published to the topic, partition by partition."""
        stored = (m for p in self.topic(topic).partitions for m in p.log.messages)
        return [MemoryMessage(message, 0) for message in stored]

    def backlog(self, topic: str, subscription: str) -> int:
        """What the subscription has not acknowledged, sent or not."""
        return sum(f.subscription.backlog() for f in self._feeds(topic, subscription))

    def pending(self, topic: str, subscription: str) -> dict[str, int]:
        """How many messages each consumer was sent and has neither acknowledged nor given back."""
        pending: dict[str, int] = {}
        for feed in self._feeds(topic, subscription):
            for name, positions in feed.subscription.pending().items():
                pending[name] = pending.get(name, 0) + len(positions)
        return pending

    def violations(self) -> list[str]:
        """What must never be, over all subscriptions; empty when all is well."""
        topics = self._topics.values()
        feeds = [f for t in topics for p in t.partitions for f in p.feeds.values()]
        return [violation for f in feeds for violation in f.subscription.violations()]

    def _feeds(self, topic: str, subscription: str) -> Iterable[Feed]:
        return [
            p.feeds[subscription] for p in self.topic(topic).partitions if subscription in p.feeds
        ]

    def disconnect(self, consumer: Member) -> None:
        """Cut the consumer's connection until `reconnect`; the broker gives its messages away.

        What was prefetched is still handed over, as the client does that is not told.
        """
        consumer.is_cut = True
        consumer.disconnect()

    def reconnect(self, consumer: Member) -> None:
        """Let the consumer back under its name; what is its own then is sent again."""
        consumer.is_cut = False
        consumer.connect()

    def crash(self, consumer: Member) -> None:
        """The consumer's process is gone: nothing is handed to it any more."""
        consumer.vanish()

    def unload(self, topic: str) -> None:
        """Load the topic anew: counts restart, consumers come back by themselves."""
        self._unload(self.topic(topic))
        asyncio.get_running_loop().call_later(self.settings.reconnect_delay_s, self._reconnect_all)

    def stop(self) -> None:
        """Take the broker down: nothing is stored, everybody is disconnected."""
        self.is_up = False
        for topic in self._topics.values():
            self._unload(topic)

    def start(self) -> None:
        """Bring it up again with all that was acknowledged; consumers come back."""
        self.is_up = True
        self._reconnect_all()

    def refuse_publishes(self, topic: str, error: BrokerError | None) -> None:
        """Store nothing on this topic and answer with the error, until called with None."""
        self.topic(topic).refusal = error

    def _unload(self, topic: _Topic) -> None:
        for partition in topic.partitions:
            partition.log.start_ledger()
            for feed in partition.feeds.values():
                feed.connected.clear()
                feed.subscription.unload()

    def _reconnect_all(self) -> None:
        for consumer in self._consumers:
            consumer.connect()
