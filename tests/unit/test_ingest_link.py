"""The publisher behind ingest, when the broker's client doesn't find back by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from ingest import link
from ingest.link import BrokerLink
from keylane.broker import OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerUnavailable
from tests.fakes import FakeBroker, FakePublisher
from tests.waiting import until


class Broker(FakeBroker):
    """Hands out a new publisher each time."""

    def __init__(self) -> None:
        super().__init__(FakePublisher())
        self.publishers: list[FakePublisher] = []

    @override
    async def publisher(self, topic: str) -> Publisher:
        await super().publisher(topic)
        self.publishers.append(FakePublisher())
        return self.publishers[-1]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(link, "REOPEN_AFTER_S", 0.1)
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.01)
    return Broker()


@contextlib.asynccontextmanager
async def connected(broker: Broker) -> AsyncIterator[BrokerLink]:
    async def create() -> None:
        raise AssertionError("there is a topic")

    opened = BrokerLink(broker, "events", create)
    keeping = asyncio.create_task(opened.keep_connected())
    await until(opened.is_connected)
    yield opened
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_publisher_that_stays_away_is_closed_and_opened_anew(broker: Broker) -> None:
    async with connected(broker) as opened:
        broker.publishers[0].connected = False
        await until(lambda: len(broker.publishers) == 2 and opened.is_connected())

        assert broker.publishers[0].closed
        opened.send(OutgoingMessage("Ada", b"{}"), lambda _: None)
        assert broker.publishers[1].keys() == ["Ada"]


async def test_one_that_comes_back_by_itself_is_kept(broker: Broker) -> None:
    async with connected(broker) as opened:
        for _ in range(5):
            broker.publishers[0].connected = False
            await asyncio.sleep(0.03)
            broker.publishers[0].connected = True
            await asyncio.sleep(0.03)

        assert opened.is_connected()
        assert len(broker.publishers) == 1


async def test_nothing_is_sent_while_there_is_no_publisher(broker: Broker) -> None:
    receipts: list[Receipt] = []
    async with connected(broker) as opened:
        broker.refusals = 3
        broker.publishers[0].connected = False
        await until(lambda: broker.publishers[0].closed)
        opened.send(OutgoingMessage("Ada", b"{}"), receipts.append)

        assert isinstance(receipts[0], BrokerUnavailable)
        await until(opened.is_connected)
        assert len(broker.publishers) == 2
