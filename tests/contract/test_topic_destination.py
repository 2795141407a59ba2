"""From topic to topic, on both brokers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinationcontract import Arrival, Counterpart, DestinationContract, opening_of
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.topic import TopicDestination, open_topic
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable, Withdrawn
from keylane.broker import Broker, Publisher, Received
from keylane.errors import ConfigurationError, PublishUnconfirmed
from keylane.memory import MemoryBroker
from keylane.memorycluster import MemoryCluster, MemorySettings
from tests.brokers import BrokerAddress
from tests.contract.clusters import Cluster, InMemory, OnPulsar
from tests.fakes import FakeBroker, FakePublisher, answers
from tests.messages import make_delivery
from tests.waiting import until


class Topic(Counterpart):
    """A topic of its own, and a consumer that begins at its first message."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.broker = cluster.session()
        self.reading = cluster.session()
        self.name = f"target-{uuid.uuid4().hex[:12]}"
        self.messages: list[Received] = []
        self.expected = 0

    async def create(self) -> None:
        await self.cluster.create_topic(self.name, 1)
        await self.cluster.create_subscription(self.name, "reader")
        await self.reading.subscribe(self.name, 0, "reader", "reader-1", self._take)

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return Counting(
            self,
            open_topic(opening_of(f"pulsar:{self.name}", timeout_s=timeout_s, broker=self.broker)),
        )

    @override
    async def received(self) -> Sequence[Arrival]:
        await until(lambda: len(self.messages) >= self.expected)
        return [Arrival(m.value(), m.properties()["ce_id"], m.key) for m in self.messages]

    def _take(self, _partition: int, messages: Sequence[Received]) -> None:
        self.messages.extend(messages)

    async def close(self) -> None:
        await self.broker.close()
        await self.reading.close()


class Counting:
    """Tells the reader how many messages to wait for."""

    def __init__(self, topic: Topic, inner: TopicDestination) -> None:
        self._topic = topic
        self._inner = inner

    async def attempt(self, delivery: Delivery) -> Outcome:
        outcome = await self._inner.attempt(delivery)
        self._topic.expected += isinstance(outcome, Delivered)
        return outcome

    async def close(self) -> None:
        await self._inner.close()


class MemoryTopic(Topic):
    cluster: InMemory

    @override
    async def go_away(self) -> None:
        self.cluster.cluster.stop()


@asynccontextmanager
async def created(topic: Topic) -> AsyncIterator[Counterpart]:
    await topic.create()
    try:
        yield topic
    finally:
        await topic.close()


class TestTopicInMemory(DestinationContract):
    can_stall = False

    @override
    def counterpart(self) -> AbstractAsyncContextManager[Counterpart]:
        return created(MemoryTopic(InMemory()))


@pytest.mark.real_broker
class TestTopicOnPulsar(DestinationContract):
    can_stall = False
    can_go_away = False

    @pytest.fixture(autouse=True)
    def _address(self, local_broker: BrokerAddress) -> None:
        self.address = local_broker

    @override
    def counterpart(self) -> AbstractAsyncContextManager[Counterpart]:
        return created(Topic(OnPulsar(self.address.service_url, self.address.admin_url)))


def destination(broker: Broker, timeout_s: float = 5) -> TopicDestination:
    return open_topic(opening_of("pulsar:target", timeout_s=timeout_s, broker=broker))


async def test_a_message_is_published_as_it_is() -> None:
    publisher = FakePublisher()
    opened = destination(FakeBroker(publisher))
    delivery = make_delivery(b"\xff{", 4, user="Zoë", type="order.paid")
    assert await opened.attempt(delivery) == Delivered()
    (sent,) = publisher.sent
    assert (sent.key, sent.value) == ("Zoë", b"\xff{")
    assert sent.properties == delivery.message.properties()
    assert sent.event_time_ms == delivery.message.event_time_ms
    await opened.close()
    assert publisher.closed


async def test_what_may_not_begin_any_more_when_the_topic_is_open_is_withdrawn() -> None:
    publisher = FakePublisher()
    late = make_delivery()
    late.may_begin = lambda: False
    assert await destination(FakeBroker(publisher)).attempt(late) == Withdrawn()
    assert publisher.sent == []


async def test_what_is_too_large_is_refused_and_keeps_nobody_else() -> None:
    cluster = MemoryCluster(MemorySettings(max_message_bytes=10))
    cluster.create_topic("target", 1)
    opened = destination(MemoryBroker(cluster))
    assert isinstance(await opened.attempt(make_delivery(b"x" * 11)), Refused)
    assert await opened.attempt(make_delivery(b"x" * 10)) == Delivered()


async def test_an_event_that_is_not_confirmed_is_worth_another_attempt() -> None:
    publisher = FakePublisher()
    opened = destination(FakeBroker(publisher, refusals=1), timeout_s=0.1)
    unreachable = await opened.attempt(make_delivery())
    assert isinstance(unreachable, Unavailable)
    assert unreachable.is_down
    publisher.answer = answers(PublishUnconfirmed(), None)
    assert isinstance(await opened.attempt(make_delivery()), Unavailable)
    late = await opened.attempt(make_delivery())
    assert late == Unavailable("no receipt within the timeout", may_be_down=True, is_overload=True)
    publisher.release()
    assert await opened.attempt(make_delivery()) == Delivered()
    assert len(publisher.sent) == 3


async def test_the_topic_is_opened_once_with_the_first_attempts() -> None:
    class Slow(FakeBroker):
        opened = 0

        @override
        async def publisher(
            self, topic: str, *, name: str | None = None, deduplicate: bool = False
        ) -> Publisher:
            self.opened += 1
            await asyncio.sleep(0.01)
            return await super().publisher(topic)

    broker = Slow(FakePublisher())
    opened = destination(broker)
    assert broker.opened == 0
    await asyncio.gather(*(opened.attempt(make_delivery(user=f"user-{n}")) for n in range(5)))
    assert broker.opened == 1


def test_what_is_no_topic_is_refused() -> None:
    for to in ("pulsar:", "pulsar://host:6650/topic", "pulsar:a b"):
        with pytest.raises(ConfigurationError, match="is no topic"):
            open_topic(opening_of(to))
