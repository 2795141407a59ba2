"""A publisher's connection: noticing that it is dead, beginning anew, and storing nothing twice."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from keylane import pulsarpublisher
from keylane.admin import PulsarAdmin
from keylane.broker import STORED_BEFORE, OutgoingMessage, Receipt, Received
from keylane.errors import BrokerError, BrokerUnavailable, PublishUnconfirmed
from keylane.names import partition_topic
from keylane.pulsar import PulsarBroker
from keylane.pulsarpublisher import PulsarPublisher
from keylane.settings import PulsarSettings
from keylane.topics import ensure_deduplication, ensure_destination, ensure_topic
from operate.broker.local import LocalBroker
from tests.brokers import BrokerAddress
from tests.chaos.proxy import Proxy
from tests.waiting import until

pytestmark = [pytest.mark.real_broker]


def access_to(broker: BrokerAddress | LocalBroker, proxy: Proxy | None = None) -> PulsarSettings:
    url = proxy.url if proxy else broker.service_url
    return PulsarSettings(service_url=url, admin_url=broker.admin_url)


@pytest.fixture
async def proxy(local_broker: BrokerAddress) -> AsyncIterator[Proxy]:
    async with Proxy(int(local_broker.service_url.rpartition(":")[2])).serving() as proxy:
        yield proxy


@pytest.fixture
async def broker(local_broker: BrokerAddress, proxy: Proxy) -> AsyncIterator[PulsarBroker]:
    """A session that goes through the proxy."""
    broker = PulsarBroker.of(access_to(local_broker, proxy))
    yield broker
    proxy.mend()
    await broker.close()


@pytest.fixture
async def topic(local_broker: BrokerAddress) -> str:
    topic = f"publisher-{uuid.uuid4().hex[:12]}"
    await prepare(local_broker, topic)
    return topic


async def prepare(broker: BrokerAddress | LocalBroker, topic: str) -> None:
    async with PulsarAdmin(access_to(broker)) as admin:
        await ensure_topic(admin, topic, 2)
        await ensure_destination(admin, topic, "crm")


class Sender:
    """Sends numbered messages of a few keys, and keeps each one's receipt."""

    def __init__(self, publisher: PulsarPublisher, keys: int = 5) -> None:
        self._publisher = publisher
        self._keys = itertools.cycle(f"user-{n}" for n in range(keys))
        self.sent: list[tuple[str, bytes]] = []
        self.receipts: list[tuple[int, Receipt]] = []

    def send(self, messages: int) -> None:
        for _ in range(messages):
            number = len(self.sent)
            key, value = next(self._keys), b"%d" % number
            self.sent.append((key, value))
            self._publisher.send(OutgoingMessage(key, value), self._keep(number))

    def _keep(self, number: int) -> Callable[[Receipt], None]:
        return lambda receipt: self.receipts.append((number, receipt))

    async def all_told(self, within_s: float = 10.0) -> list[Receipt]:
        """What became of each, in the order of sending."""
        await until(lambda: len(self.receipts) >= len(self.sent), within_s, lambda: self.receipts)
        assert len(self.receipts) == len(self.sent)
        return [receipt for _, receipt in sorted(self.receipts, key=lambda told: told[0])]

    def by_key(self) -> dict[str, list[bytes]]:
        return values_by_key(self.sent)


def values_by_key(messages: list[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for key, value in messages:
        found.setdefault(key, []).append(value)
    return found


async def stored(broker: BrokerAddress | LocalBroker, topic: str, at_least: int) -> Any:
    """The values on the topic by key, once so many are there and nothing is left behind them."""
    session = PulsarBroker.of(access_to(broker))
    received: list[Received] = []
    try:
        for partition in range(2):
            await session.subscribe(
                topic, partition, "crm", "one", lambda _, batch: received.extend(batch)
            )
        async with PulsarAdmin(access_to(broker)) as admin:
            await until(lambda: len(received) >= at_least, saying=lambda: len(received))
            held = 0
            for partition in range(2):
                stats = await admin.subscription_stats(partition_topic(topic, partition), "crm")
                assert stats is not None
                held += stats["msgBacklog"]
            await until(lambda: len(received) >= held, saying=lambda: (len(received), held))
    finally:
        await session.close()
    return values_by_key([(message.key, message.value()) for message in received])


async def test_a_connection_on_which_nothing_arrives_is_noticed_while_nothing_is_sent(
    broker: PulsarBroker, proxy: Proxy, topic: str
) -> None:
    publisher = await broker.publisher(topic)
    assert publisher.is_connected()

    proxy.cut()
    await until(lambda: not publisher.is_connected(), within_s=5.0)
    proxy.mend()

    await until(publisher.is_connected, within_s=3.0)


async def test_a_connection_on_which_nothing_arrives_is_noticed_while_sending(
    broker: PulsarBroker, proxy: Proxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulsarpublisher, "ASK_EVERY_S", 1_000.0)
    publisher = await broker.publisher(topic)
    sender = Sender(publisher)
    sender.send(10)
    await sender.all_told()

    proxy.cut()
    sender.send(10)
    await until(lambda: not publisher.is_connected(), within_s=5.0)
    proxy.mend()

    assert not [r for r in await sender.all_told() if isinstance(r, BrokerError)]
    await until(publisher.is_connected, within_s=3.0)


async def test_a_broker_that_answers_late_but_in_time_is_connected(
    broker: PulsarBroker, proxy: Proxy, topic: str
) -> None:
    publisher = await broker.publisher(topic)
    sender = Sender(publisher)
    proxy.delay_s = 0.6
    began = time.monotonic()
    losses = 0
    while time.monotonic() - began < 5.0:
        sender.send(1)
        losses += not publisher.is_connected()
        await asyncio.sleep(0.05)

    assert losses == 0
    await sender.all_told()


async def test_a_client_that_does_not_come_back_is_replaced(
    broker: PulsarBroker, proxy: Proxy, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulsarpublisher, "REOPEN_AFTER_S", 0.5)
    publisher = await broker.publisher(topic)
    sender = Sender(publisher)
    proxy.cut()
    sender.send(10)
    first = publisher._producers
    assert first is not None
    first.shut_down()
    proxy.mend()

    assert {type(receipt) for receipt in await sender.all_told()} == {PublishUnconfirmed}
    await until(publisher.is_connected)
    assert publisher._producers is not first
    sender.send(10)
    assert not [r for r in (await sender.all_told())[10:] if isinstance(r, BrokerError)]


async def test_partitions_that_are_added_are_published_to(
    local_broker: BrokerAddress, broker: PulsarBroker, topic: str
) -> None:
    publisher = await broker.publisher(topic)
    async with PulsarAdmin(access_to(local_broker)) as admin:
        await ensure_topic(admin, topic, 5)

    await until(lambda: publisher._producers is not None and publisher._producers.partitions == 5)


@pytest.mark.parametrize("compression", ["none", "lz4", "zlib", "zstd", "snappy"])
async def test_events_come_back_from_every_compression(
    local_broker: BrokerAddress, topic: str, compression: str
) -> None:
    access = access_to(local_broker).model_copy(update={"compression": compression})
    broker = PulsarBroker.of(access)
    value = b"again and " * 10_000
    receipts: list[Receipt] = []
    received: list[Received] = []
    try:
        publisher = await broker.publisher(topic)
        for partition in range(2):
            await broker.subscribe(
                topic, partition, "crm", "one", lambda _, batch: received.extend(batch)
            )
        publisher.send(OutgoingMessage("Ada", value), receipts.append)
        await until(lambda: bool(receipts and received))
    finally:
        await broker.close()

    assert received[0].value() == value
    async with PulsarAdmin(access) as admin:
        stats = [await admin.stats(partition_topic(topic, n)) for n in range(2)]
    is_small = sum(s["bytesInCounter"] for s in stats) < len(value) / 2
    assert is_small == (compression != "none")


# --- deduplication --------------------------------------------------------------------------------


async def test_deduplication_is_set_once(local_broker: BrokerAddress, topic: str) -> None:
    async with PulsarAdmin(access_to(local_broker)) as admin:
        assert len(await ensure_deduplication(admin, topic)) == 1
        assert await ensure_deduplication(admin, topic) == []


async def test_what_is_sent_again_after_a_lost_connection_is_stored_once(
    local_broker: BrokerAddress, broker: PulsarBroker, proxy: Proxy, topic: str
) -> None:
    async with PulsarAdmin(access_to(local_broker)) as admin:
        await ensure_deduplication(admin, topic)
    publisher = await broker.publisher(topic, name="ingest-0", deduplicate=True)
    sender = Sender(publisher)
    sender.send(10)
    await sender.all_told()

    # They arrive, and their receipts are lost on the way back.
    proxy.delay_s = 1.0
    sender.send(50)
    async with PulsarAdmin(access_to(local_broker)) as admin:

        async def have_arrived() -> bool:
            stats = [await admin.stats(partition_topic(topic, n)) for n in range(2)]
            return bool(sum(s["msgInCounter"] for s in stats) == 60)

        await until(have_arrived)
    assert len(sender.receipts) == 10
    proxy.reset()
    proxy.delay_s = 0.0
    sender.send(50)

    receipts = await sender.all_told(20.0)
    assert not [receipt for receipt in receipts if isinstance(receipt, BrokerError)]
    assert STORED_BEFORE in receipts
    assert await stored(local_broker, topic, 110) == sender.by_key()


async def test_a_name_that_is_taken_is_told(broker: PulsarBroker, topic: str) -> None:
    await broker.publisher(topic, name="ingest-0", deduplicate=True)

    with pytest.raises(BrokerUnavailable, match="has a publisher of that name"):
        await broker.publisher(topic, name="ingest-0", deduplicate=True)


@pytest.mark.long
async def test_a_killed_brokers_messages_are_stored_once_each_and_in_order(
    own_broker: LocalBroker,
) -> None:
    await prepare(own_broker, "events")
    async with PulsarAdmin(access_to(own_broker)) as admin:
        await ensure_deduplication(admin, "events")
    broker = PulsarBroker.of(access_to(own_broker))
    publisher = await broker.publisher("events", name="ingest-0", deduplicate=True)
    sender = Sender(publisher)

    async def keep_sending() -> None:
        while True:
            sender.send(20)
            await asyncio.sleep(0.005)

    sending = asyncio.create_task(keep_sending())
    try:
        await until(lambda: len(sender.receipts) > 1_000)
        sending.cancel()
        # At once, so that these are on their way: a receipt takes longer than a kill.
        sender.send(200)
        own_broker.kill()
        await until(lambda: not publisher.is_connected(), within_s=5.0)
        assert len(sender.receipts) < len(sender.sent)
        sender.send(100)
        await asyncio.to_thread(own_broker.restart)

        receipts = await sender.all_told(within_s=30.0)
        assert not [receipt for receipt in receipts if isinstance(receipt, BrokerError)]
        assert await stored(own_broker, "events", len(sender.sent)) == sender.by_key()
        assert [n for n, _ in sender.receipts if n % 5 == 0] == list(range(0, len(receipts), 5))
    finally:
        sending.cancel()
        await broker.close()
