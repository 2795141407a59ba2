"""What any broker's table does: keep the latest of each key, tell everybody, catch up."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from keylane.broker import Broker
from keylane.errors import BrokerError, BrokerUnavailable, EventTooLarge
from tests.contract.clusters import Cluster
from tests.waiting import until


class Reading:
    """What was heard, in the order of hearing, and what it amounts to."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []

    def hear(self, key: str, value: bytes) -> None:
        self.heard.append((key, value))

    def amounts_to(self) -> dict[str, bytes]:
        return {key: value for key, value in dict(self.heard).items() if value}


@pytest.fixture
async def topic(cluster: Cluster) -> str:
    topic = f"table-{uuid.uuid4().hex[:12]}"
    await cluster.create_table(topic)
    return topic


async def test_everybody_hears_what_is_put(
    broker: Broker, other_broker: Broker, topic: str
) -> None:
    here, there = Reading(), Reading()
    table = await broker.table(topic, here.hear)
    await other_broker.table(topic, there.hear)

    await table.put("Ada", b"1")
    await table.put("漢字 🦀", bytes(range(256)))

    expected = [("Ada", b"1"), ("漢字 🦀", bytes(range(256)))]
    await until(lambda: here.heard == there.heard == expected)


async def test_who_comes_later_hears_what_is_kept_before_it_is_open(
    broker: Broker, other_broker: Broker, topic: str
) -> None:
    table = await broker.table(topic, lambda *_: None)
    for number in range(200):
        await table.put(f"user-{number % 50}", b"%d" % number)
    await table.put("user-7", b"")
    late = Reading()

    await other_broker.table(topic, late.hear)

    expected = {f"user-{n}": b"%d" % (150 + n) for n in range(50) if n != 7}
    assert late.amounts_to() == expected


async def test_a_table_is_kept_when_nobody_has_it_open(
    cluster: Cluster, broker: Broker, topic: str
) -> None:
    table = await broker.table(topic, lambda *_: None)
    await table.put("Ada", b"1")
    await table.close()
    await cluster.unload(topic)
    await cluster.trim(topic)
    late = Reading()

    await broker.table(topic, late.hear)

    assert late.amounts_to() == {"Ada": b"1"}


async def test_an_empty_value_forgets_the_key_and_is_heard(broker: Broker, topic: str) -> None:
    reading = Reading()
    table = await broker.table(topic, reading.hear)

    await table.put("Ada", b"1")
    await table.put("Ada", b"")

    await until(lambda: reading.heard == [("Ada", b"1"), ("Ada", b"")])
    late = Reading()
    await broker.table(topic, late.hear)
    assert late.amounts_to() == {}


async def test_after_catching_up_all_is_known_that_was_confirmed_before(
    broker: Broker, other_broker: Broker, topic: str
) -> None:
    here = Reading()
    table = await broker.table(topic, here.hear)
    other = await other_broker.table(topic, lambda *_: None)

    for number in range(30):
        await other.put("Ada", b"%d" % number)
        await table.catch_up()
        assert here.heard[-1] == ("Ada", b"%d" % number)


async def test_many_may_catch_up_at_once(broker: Broker, other_broker: Broker, topic: str) -> None:
    here = Reading()
    table = await broker.table(topic, here.hear)
    other = await other_broker.table(topic, lambda *_: None)

    async def put_and_look(number: int) -> bool:
        await asyncio.sleep(number / 2_000)
        await other.put(f"user-{number}", b"1")
        await table.catch_up()
        return f"user-{number}" in here.amounts_to()

    assert all(await asyncio.gather(*(put_and_look(number) for number in range(100))))


async def test_who_gives_up_catching_up_does_not_end_it_for_the_others(
    broker: Broker, topic: str
) -> None:
    table = await broker.table(topic, lambda *_: None)
    impatient, patient = (asyncio.create_task(table.catch_up()) for _ in range(2))
    await asyncio.sleep(0)

    impatient.cancel()

    await patient
    assert impatient.cancelled()


async def test_what_is_heard_can_be_put_from_there(broker: Broker, topic: str) -> None:
    tasks: list[asyncio.Task[None]] = []
    reading = Reading()

    def hear(key: str, value: bytes) -> None:
        reading.hear(key, value)
        if key == "question":
            tasks.append(asyncio.ensure_future(table.put("answer", value)))

    table = await broker.table(topic, hear)
    await table.put("question", b"42")

    await until(lambda: reading.amounts_to() == {"question": b"42", "answer": b"42"})
    await asyncio.gather(*tasks)


async def test_a_value_over_the_limit_is_refused_and_the_table_goes_on(
    broker: Broker, topic: str
) -> None:
    reading = Reading()
    table = await broker.table(topic, reading.hear)

    with pytest.raises(EventTooLarge):
        await table.put("Ada", b"x" * (6 * 1024 * 1024))

    await table.put("Ada", b"1")
    await table.catch_up()
    assert reading.amounts_to() == {"Ada": b"1"}


async def test_a_table_goes_on_after_its_topic_was_unloaded(
    cluster: Cluster, broker: Broker, topic: str
) -> None:
    reading = Reading()
    table = await broker.table(topic, reading.hear)
    await table.put("Ada", b"1")

    await cluster.unload(topic)

    async def is_put() -> bool:
        try:
            await table.put("Ada", b"2")
            await table.catch_up()
        except BrokerError:
            return False
        return True

    await until(is_put)
    assert reading.amounts_to() == {"Ada": b"2"}


async def test_a_compacted_table_amounts_to_the_same(
    cluster: Cluster, broker: Broker, topic: str
) -> None:
    here = Reading()
    table = await broker.table(topic, here.hear)
    for number in range(100):
        await table.put(f"user-{number % 10}", b"%d" % number)
    for number in range(5):
        await table.put(f"user-{number}", b"")
    await table.catch_up()

    await cluster.compact(topic)
    late = Reading()
    again = await broker.table(topic, late.hear)

    assert (
        late.amounts_to()
        == here.amounts_to()
        == {f"user-{n}": b"%d" % (90 + n) for n in range(5, 10)}
    )
    # Also when all that is behind the compacted part was read from it.
    await asyncio.gather(table.catch_up(), again.catch_up())
    await again.put("Ada", b"1")
    await table.catch_up()
    assert here.amounts_to()["Ada"] == b"1"


async def test_nothing_is_heard_of_a_closed_table(
    broker: Broker, other_broker: Broker, topic: str
) -> None:
    here = Reading()
    table = await broker.table(topic, here.hear)
    other = await other_broker.table(topic, lambda *_: None)
    await table.close()
    await table.close()

    await other.put("Ada", b"1")
    await other.catch_up()

    assert here.heard == []
    with pytest.raises(BrokerUnavailable):
        await table.catch_up()
    with pytest.raises(BrokerError):
        await table.put("Ada", b"2")
