"""What the in-memory broker can do beyond the contract: faults, on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from keylane.broker import OutgoingMessage, Position, Receipt, Received
from keylane.errors import BrokerError, BrokerUnavailable, PublishUnconfirmed
from keylane.memory import MemoryBroker, MemoryConsumer
from keylane.memorycluster import MemoryCluster, MemorySettings
from tests.messages import positions
from tests.waiting import until


class Office:
    """A topic `t` of one partition, and who takes from it."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster(MemorySettings(redelivery_delay_s=0.01))
        self.cluster.create_topic("t", 1)
        self.broker = MemoryBroker(self.cluster)
        self.received: dict[str, list[Received]] = {}
        self.consumers: dict[str, MemoryConsumer] = {}

    async def hire(self, *names: str) -> None:
        for name in names:
            took = self.received[name] = []

            def deliver(_: int, batch: Sequence[Received], took: list[Received] = took) -> None:
                took.extend(batch)

            self.consumers[name] = await self.broker.subscribe(
                "t", 0, "crm", name, deliver, prefetch=10
            )

    async def send(self, key: str, *values: str, topic: str = "t") -> list[Receipt]:
        receipts: list[Receipt] = []
        publisher = await self.broker.publisher(topic)
        for value in values:
            publisher.send(OutgoingMessage(key, value.encode()), receipts.append)
        return receipts

    def values(self, name: str) -> list[str]:
        return [m.value().decode() for m in self.received[name]]

    async def gets(self, name: str, *values: str) -> None:
        await until(lambda: len(self.values(name)) >= len(values), saying=self.received.items)
        assert self.values(name) == list(values)
        assert self.cluster.violations() == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def office() -> Office:
    return Office()


async def test_a_disconnected_consumers_acknowledgements_are_lost(office: Office) -> None:
    await office.hire("one")
    await office.send("Ada", *"ab")
    await office.gets("one", *"ab")

    office.cluster.disconnect(office.consumers["one"])
    office.consumers["one"].acknowledge(office.received["one"])
    assert not office.consumers["one"].is_connected()
    assert office.cluster.backlog("t", "crm") == 2

    office.cluster.reconnect(office.consumers["one"])
    await office.gets("one", *"ab", *"ab")
    assert office.consumers["one"].is_connected()


async def test_what_a_disconnected_consumer_had_goes_to_another_and_comes_not_back(
    office: Office,
) -> None:
    await office.hire("one")
    await office.send("Ada", *"ab")
    await office.gets("one", *"ab")
    await office.hire("two")

    office.cluster.disconnect(office.consumers["one"])
    await office.gets("two", *"ab")
    office.cluster.reconnect(office.consumers["one"])
    office.consumers["two"].acknowledge(office.received["two"])
    await office.send("Ada", "marker")

    await until(lambda: "marker" in office.values("one") + office.values("two"))
    assert office.values("one")[:2] == list("ab")
    assert office.values("two")[:2] == list("ab")
    assert "a" not in office.values("one")[2:]


async def test_what_a_disconnected_consumer_gives_back_is_not_counted(office: Office) -> None:
    await office.hire("one", "two")
    await office.send("Ada", "a")
    await until(lambda: any(office.received.values()))
    holder = "one" if office.received["one"] else "two"
    other = "two" if holder == "one" else "one"

    office.consumers[holder].negative_acknowledge(positions(office.received[holder]))
    office.cluster.disconnect(office.consumers[holder])

    await office.gets(other, "a")
    assert office.received[other][0].redelivery_count == 0


async def test_a_crashed_consumer_is_handed_nothing_more(office: Office) -> None:
    await office.hire("one")
    await office.send("Ada", *"ab")
    office.cluster.crash(office.consumers["one"])
    office.cluster.reconnect(office.consumers["one"])
    await office.hire("two")

    await office.gets("two", *"ab")
    assert office.received["one"] == []
    assert not office.consumers["one"].is_connected()


async def test_while_the_broker_is_down_nothing_is_promised(office: Office) -> None:
    await office.hire("one")
    await office.send("Ada", "a")
    await office.gets("one", "a")
    publisher = await office.broker.publisher("t")
    receipts: list[Receipt] = []

    office.cluster.stop()

    publisher.send(OutgoingMessage("Ada", b"b"), receipts.append)
    assert isinstance(receipts[0], PublishUnconfirmed)
    assert not publisher.is_connected()
    assert not office.consumers["one"].is_connected()
    with pytest.raises(BrokerUnavailable):
        await office.broker.publisher("t")
    with pytest.raises(BrokerUnavailable):
        await office.broker.partitions("t")
    with pytest.raises(BrokerUnavailable):
        await office.hire("two")

    office.cluster.start()
    await office.gets("one", "a", "a")
    assert publisher.is_connected()


async def test_a_cut_consumer_stays_away_when_the_topic_is_loaded_anew(office: Office) -> None:
    await office.hire("one", "two")
    office.cluster.disconnect(office.consumers["one"])

    office.cluster.unload("t")

    await until(office.consumers["two"].is_connected)
    assert not office.consumers["one"].is_connected()


@pytest.mark.parametrize("error", [PublishUnconfirmed(), BrokerUnavailable()])
async def test_one_topic_can_refuse_what_is_published(office: Office, error: BrokerError) -> None:
    office.cluster.refuse_publishes("dead", error)

    assert await office.send("Ada", "a", topic="dead") == [error]
    (stored,) = await office.send("Ada", "a")
    assert isinstance(stored, tuple)

    office.cluster.refuse_publishes("dead", None)
    (stored,) = await office.send("Ada", "b", topic="dead")
    assert isinstance(stored, tuple)
    assert [m.value() for m in office.cluster.messages("dead")] == [b"b"]


async def test_statistics_say_who_has_what(office: Office) -> None:
    await office.hire("one", "two")
    await office.send("", *"0123456789")
    await until(lambda: sum(map(len, office.received.values())) == 10)

    assert office.cluster.backlog("t", "crm") == 10
    assert office.cluster.pending("t", "crm") == {n: len(r) for n, r in office.received.items()}
    assert len(office.cluster.messages("t")) == 10
    assert office.cluster.backlog("t", "nobody") == 0


async def test_a_paused_consumer_fetches_no_more_than_its_queue(office: Office) -> None:
    await office.hire("one")
    office.consumers["one"].pause()
    await office.send("Ada", *"0123456789abcdef")

    await until(lambda: office.cluster.pending("t", "crm") == {"one": 10})
    office.consumers["one"].resume()
    await office.gets("one", *"0123456789abcdef")


async def test_a_topic_cannot_be_created_twice(office: Office) -> None:
    with pytest.raises(ValueError, match="already"):
        office.cluster.create_topic("persistent://public/default/t", 2)


async def test_an_error_of_deliver_does_not_end_the_deliveries(office: Office) -> None:
    taken: list[Position] = []

    def fail_once(_: int, batch: Sequence[Received]) -> None:
        taken.extend(m.position for m in batch)
        if len(taken) == 1:
            raise RuntimeError

    office.consumers["one"] = await office.broker.subscribe("t", 0, "crm", "one", fail_once)
    office.consumers["one"]._loop.set_exception_handler(lambda *_: None)
    await office.send("Ada", "a")
    await until(lambda: len(taken) == 1)
    await office.send("Ada", "b")

    await until(lambda: len(taken) == 2)
