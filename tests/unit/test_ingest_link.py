"""The publisher behind ingest, before the broker is there and after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from ingest.link import BrokerLink
from keylane.broker import OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerUnavailable, ConfigurationError
from tests.fakes import FakeBroker, FakePublisher
from tests.waiting import until


class Broker(FakeBroker):
    """Remembers how publishers were asked for."""

    def __init__(self) -> None:
        self.handed_out = FakePublisher()
        super().__init__(self.handed_out)
        self.found_partitions = 1
        self.asked: list[tuple[str, str | None, bool]] = []

    @override
    async def partitions(self, topic: str) -> int:
        return self.found_partitions

    @override
    async def publisher(
        self, topic: str, *, name: str | None = None, deduplicate: bool = False
    ) -> Publisher:
        publisher = await super().publisher(topic)
        self.asked.append((topic, name, deduplicate))
        return publisher


async def there_is_one() -> None:
    raise AssertionError("there is a topic")


@contextlib.asynccontextmanager
async def keeping(link: BrokerLink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(link.keep_connected())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_sent_before_the_broker_is_there() -> None:
    link = BrokerLink(Broker(), "events", there_is_one)
    receipts: list[Receipt] = []

    link.send(OutgoingMessage("Ada", b"{}"), receipts.append)

    assert isinstance(receipts[0], BrokerUnavailable)
    assert not link.is_connected()


async def test_a_broker_that_is_away_is_asked_again_until_it_is_there() -> None:
    broker = Broker()
    broker.refusals = 2
    link = BrokerLink(broker, "events", there_is_one)

    async with keeping(link) as task:
        await until(link.is_connected)
        link.send(OutgoingMessage("Ada", b"{}"), lambda _: None)

        assert broker.handed_out.keys() == ["Ada"]
        assert broker.asked == [("events", None, False)]
        assert not task.done()


async def test_it_is_connected_as_its_publisher_is() -> None:
    broker = Broker()
    link = BrokerLink(broker, "events", there_is_one)

    async with keeping(link):
        await until(link.is_connected)
        broker.handed_out.connected = False
        assert not link.is_connected()
        broker.handed_out.connected = True
        assert link.is_connected()


async def test_with_a_name_it_deduplicates_on_a_topic_that_does_so_too() -> None:
    broker = Broker()
    prepared: list[str] = []

    async def create() -> None:
        assert not broker.asked
        prepared.append("events")

    link = BrokerLink(broker, "events", create, name="ingest-0")

    async with keeping(link):
        await until(link.is_connected)

    assert prepared == ["events"]
    assert broker.asked == [("events", "ingest-0", True)]


async def test_a_missing_topic_is_created() -> None:
    broker = Broker()
    broker.found_partitions = 0

    async def create() -> None:
        broker.found_partitions = 3

    link = BrokerLink(broker, "events", create)
    async with keeping(link):
        await until(link.is_connected)

    assert broker.found_partitions == 3


async def test_a_topic_that_does_not_do_ends_it() -> None:
    broker = Broker()
    broker.found_partitions = 0

    async def create() -> None:
        raise ConfigurationError("not partitioned")

    with pytest.raises(ConfigurationError, match="not partitioned"):
        await BrokerLink(broker, "events", create).keep_connected()


async def test_closing_closes_the_publisher() -> None:
    broker = Broker()
    link = BrokerLink(broker, "events", there_is_one)
    async with keeping(link):
        await until(link.is_connected)

    await link.close()

    assert broker.handed_out.closed
    assert not link.is_connected()
