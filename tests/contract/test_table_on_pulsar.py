"""A table's topic on a real broker: what it keeps, and a broker that dies and comes back."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from keylane.admin import PulsarAdmin
from keylane.errors import BrokerError
from keylane.settings import PulsarSettings
from keylane.tabletopic import ensure_table
from operate.broker.local import start_local_broker
from tests.brokers import BrokerAddress
from tests.contract.clusters import OnPulsar
from tests.waiting import until

pytestmark = pytest.mark.real_broker


async def test_a_table_for_a_time_is_set_up_once_and_keeps_what_was_put(
    local_broker: BrokerAddress,
) -> None:
    topic = f"table-{uuid.uuid4().hex[:12]}"
    on_pulsar = OnPulsar(local_broker.service_url, local_broker.admin_url)
    settings = PulsarSettings(
        service_url=local_broker.service_url, admin_url=local_broker.admin_url
    )
    async with PulsarAdmin(settings) as admin:
        changes = await ensure_table(admin, topic, keep_s=3_600)

        async def is_in_place() -> bool:
            return await ensure_table(admin, topic, keep_s=3_600) == []

        await until(is_in_place)
        retention = await admin.policy(topic, "retention")
        threshold = await admin.policy(topic, "compactionThreshold")
    assert len(changes) == 3
    assert (retention["retentionTimeInMinutes"], retention["retentionSizeInMB"]) == (61, -1)
    assert threshold is None

    broker = on_pulsar.session()
    table = await broker.table(topic, lambda *_: None)
    await table.put("Ada", b"1")
    await table.close()
    await on_pulsar.unload(topic)
    await on_pulsar.trim(topic)
    heard: dict[str, bytes] = {}
    await broker.table(topic, heard.__setitem__)
    await broker.close()

    assert heard == {"Ada": b"1"}


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_table_goes_on_when_its_broker_was_killed_and_is_back() -> None:
    own = await asyncio.to_thread(start_local_broker)
    try:
        on_pulsar = OnPulsar(own.service_url, own.admin_url)
        await on_pulsar.create_table("table")
        one, two = on_pulsar.session(), on_pulsar.session()
        here: dict[str, bytes] = {}
        table = await one.table("table", here.__setitem__)
        other = await two.table("table", lambda *_: None)
        await other.put("Ada", b"1")

        await asyncio.to_thread(own.kill)
        for lost in (table.catch_up(), table.put("Bob", b"1")):
            with pytest.raises(BrokerError):
                await lost
        await asyncio.to_thread(own.restart)

        async def is_put_and_heard() -> bool:
            try:
                await other.put("Ada", b"2")
                await table.catch_up()
            except BrokerError:
                return False
            return True

        await until(is_put_and_heard, 60.0)
        assert here["Ada"] == b"2"
        await one.close()
        await two.close()
    finally:
        await asyncio.to_thread(own.stop)
