"""A worker's consumers, one a partition, and what is known of their connections.

Pulsar tells nobody when a consumer is removed behind a connection that is cut. So the broker is
asked something every few seconds: only while it answers can the lanes be sure that what they hold
is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dispatch.lanes import Lanes
from dispatch.metrics import Counts
from keylane.broker import Broker, Consumer, Deliver
from keylane.errors import BrokerError, BrokerUnavailable
from keylane.names import WHOLE, redrive_topic

#: How often the topic is looked at for partitions that were added.
PARTITIONS_CHECK_S: Final = 60.0
#: The broker is asked so many times in a lease, and this long after it did not answer.
QUESTIONS_A_LEASE: Final = 4
ASK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a worker consumes, and under which name."""

    topic: str
    name: str
    consumer_name: str


class Connections:
    """Opens the consumers, and tells the lanes what happens to their connections.

    `step_soon` is called when the lanes may have something new to do.
    """

    def __init__(
        self,
        subscription: Subscription,
        broker: Broker,
        lanes: Lanes,
        counts: Counts,
        log: Any,
        step_soon: Callable[[], None],
    ) -> None:
        self.consumers: dict[int, Consumer] = {}
        self._subscription = subscription
        self._broker = broker
        self._lanes = lanes
        self._counts = counts
        self._log = log
        self._step_soon = step_soon
        self._loop = asyncio.get_running_loop()
        self._connected: set[int] = set()
        self._unsure: set[int] = set()
        self._asked_at: dict[int, float] = {}
        self._unanswered: set[int] = set()
        self._questions: dict[int, asyncio.Task[None]] = {}

    async def open(self, deliver: Deliver, prefetch: int) -> None:
        """Subscribe to each partition that has no consumer yet; raises `BrokerUnavailable`.

        Also to what the destination is to get once more: a topic of its own, `WHOLE`.
        """
        subscription = self._subscription
        partitions = await self._broker.partitions(subscription.topic)
        for partition in (*range(partitions), WHOLE):
            if partition in self.consumers:
                continue
            again = redrive_topic(subscription.topic, subscription.name)
            self.consumers[partition] = await self._broker.subscribe(
                again if partition == WHOLE else subscription.topic,
                partition,
                subscription.name,
                subscription.consumer_name,
                deliver,
                prefetch=prefetch,
            )
            self._step_soon()

    async def look_for_partitions(self, deliver: Deliver, prefetch: int) -> None:
        """Open what is added, for ever."""
        while True:
            await asyncio.sleep(PARTITIONS_CHECK_S)
            before = len(self.consumers)
            try:
                await self.open(deliver, prefetch)
            except BrokerError as error:
                self._log.warning("partitions.unknown", error=str(error))
            if len(self.consumers) > before:
                self._log.info("partitions.added", partitions=len(self.consumers))

    def unready_reasons(self) -> list[str]:
        """Why nothing is delivered of some partitions, in words."""
        if not self.consumers:
            return ["not connected"]
        reasons = []
        if lost := set(self.consumers) - self._connected:
            reasons.append(f"not connected to {_named(lost)}")
        if unsure := self._unsure & self._connected:
            reasons.append(f"the broker has not answered lately for {_named(unsure)}")
        return reasons

    def check(self) -> None:
        """Tell the lanes of connections that were made or lost since the last time."""
        now = self._loop.time()
        for partition, consumer in self.consumers.items():
            is_connected = consumer.is_connected()
            if is_connected == (partition in self._connected):
                continue
            if is_connected:
                self._connected.add(partition)
                self._lanes.connect(partition, now)
                self._counts.connections_made += 1
                self._log.info("connection.made", partition=partition)
            else:
                self._connected.discard(partition)
                self._lanes.disconnect(partition, now)
                self._counts.connections_lost += 1
                self._log.warning("connection.lost", partition=partition)

    def ask(self) -> None:
        """Ask the broker where its last answer gets old; to be called every few hundredths."""
        now = self._loop.time()
        self._lanes.partitions.judge(now, self._lanes.options.lease_s)
        unsure = self._lanes.partitions.unsure()
        for partition in unsure - self._unsure:
            self._log.warning(
                "connection.unsure",
                partition=partition,
                consequence="no attempt starts until the broker answers",
            )
        for partition in self._unsure - unsure:
            self._log.info("connection.sure", partition=partition)
        self._unsure = unsure
        age_s = self._lanes.options.lease_s / QUESTIONS_A_LEASE
        for partition in self._lanes.partitions.to_confirm(now, age_s):
            is_too_soon = now - self._asked_at.get(partition, 0.0) < ASK_AGAIN_S
            if partition not in self._questions and not is_too_soon:
                self._asked_at[partition] = now
                question = self._loop.create_task(self._confirm(partition, now))
                self._questions[partition] = question

    async def _confirm(self, partition: int, asked_at: float) -> None:
        try:
            await self.consumers[partition].confirm()
        except BrokerUnavailable as error:
            # It is asked again at once, and for as long as it takes: one line says it.
            if partition not in self._unanswered:
                self._unanswered.add(partition)
                self._log.warning("connection.unconfirmed", partition=partition, error=str(error))
        else:
            self._unanswered.discard(partition)
            # What the broker said before its answer comes first: perhaps that we are removed.
            self.check()
            self._lanes.confirm(partition, asked_at, self._loop.time())
            self._step_soon()
        finally:
            del self._questions[partition]

    def pause(self) -> None:
        for consumer in self.consumers.values():
            consumer.pause()

    def resume(self) -> None:
        """Receive again, unless a partition is stopped by itself."""
        for partition, consumer in self.consumers.items():
            if self._lanes.partitions.receives(partition):
                consumer.resume()
            else:
                consumer.pause()

    async def close(self) -> None:
        """Leave the subscription: the broker gives everything unacknowledged to others."""
        for question in self._questions.values():
            question.cancel()
        await asyncio.gather(*self._questions.values(), return_exceptions=True)
        await asyncio.gather(*(consumer.close() for consumer in self.consumers.values()))


def _named(numbers: set[int]) -> str:
    partitions = sorted(numbers - {WHOLE})
    named = [f"partitions {partitions}"] if partitions else []
    if WHOLE in numbers:
        named.append("the redrive topic")
    return " and ".join(named)
