"""Where the subscription of a new destination begins, and that none is ever moved."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from keylane.admin import PulsarAdmin
from keylane.event import rfc3339
from keylane.names import dead_letter_topic, partition_topic
from keylane.settings import PulsarSettings
from keylane.topics import ensure_destination, ensure_topic
from tests.brokers import BrokerAddress
from tests.rawtopic import Sent, drain_raw, read_raw, send_raw

pytestmark = pytest.mark.real_broker


class Scene:
    """A topic of one partition with events 0, 1, 2 ..., some milliseconds apart."""

    def __init__(self, admin: PulsarAdmin, url: str) -> None:
        self.admin = admin
        self.url = url
        self.topic = f"start-{uuid.uuid4().hex[:12]}"
        self._count = 0

    async def publish(self, events: int) -> None:
        for _ in range(events):
            await self._put(Sent("ana", b"%d" % self._count))
            self._count += 1

    async def _put(self, message: Sent) -> None:
        await asyncio.to_thread(send_raw, self.url, partition_topic(self.topic, 0), [message])

    async def published_ms(self, number: int) -> int:
        found = await asyncio.to_thread(read_raw, self.url, partition_topic(self.topic, 0))
        return found[number].published_ms

    async def gets(self, name: str, partition: int = 0) -> list[int]:
        topic = partition_topic(self.topic, partition)
        return [int(m.value) for m in await asyncio.to_thread(drain_raw, self.url, topic, name)]

    async def ensure(self, name: str, start: str) -> str:
        return "; ".join(await ensure_destination(self.admin, self.topic, name, start))


@pytest.fixture
async def scene(local_broker: BrokerAddress) -> AsyncIterator[Scene]:
    async with PulsarAdmin(PulsarSettings(admin_url=local_broker.admin_url)) as admin:
        made = Scene(admin, local_broker.service_url)
        await ensure_topic(admin, made.topic, 1)
        yield made


async def test_a_new_destination_starts_where_it_is_told(scene: Scene) -> None:
    await scene.publish(3)
    at = rfc3339(await scene.published_ms(1))

    said = [await scene.ensure(*one) for one in (("first", "earliest"), ("last", "latest"))]
    said.append(await scene.ensure("between", at))
    await scene.ensure("before", "2026-01-01")
    await scene.publish(1)

    assert await scene.gets("first") == [0, 1, 2, 3]
    assert await scene.gets("last") == [3]
    assert await scene.gets("between") == [1, 2, 3]
    assert await scene.gets("before") == [0, 1, 2, 3]
    assert "from" not in said[0].partition(";")[0]
    assert [f"from {start} on" in one for one, start in zip(said[1:], ["latest", at], strict=True)]


async def test_one_that_is_there_is_never_moved_and_that_is_said(scene: Scene) -> None:
    await scene.publish(2)
    await scene.ensure("crm", "earliest")

    with capture_logs() as logged:
        assert await scene.ensure("crm", "latest") == ""

    assert await scene.gets("crm") == [0, 1]
    assert [(one["event"], one["start"]) for one in logged] == [
        ("destination.start_ignored", "latest")
    ]


async def test_it_gets_all_of_a_partition_that_was_added(scene: Scene) -> None:
    # The broker itself makes subscriptions on partitions that are added; this one it did not.
    await ensure_topic(scene.admin, scene.topic, 2)
    await scene.admin.create_subscription(partition_topic(scene.topic, 0), "crm", "latest")
    await scene.admin.create_topic(dead_letter_topic(scene.topic, "crm"))
    added = partition_topic(scene.topic, 1)
    await asyncio.to_thread(send_raw, scene.url, added, [Sent("bob", b"7")])

    await scene.ensure("crm", "latest")

    assert await scene.gets("crm", partition=1) == [7]


async def test_workers_that_make_it_at_the_same_time_start_it_at_the_same_place(
    scene: Scene,
) -> None:
    await ensure_topic(scene.admin, scene.topic, 2)
    added = partition_topic(scene.topic, 1)
    await asyncio.to_thread(send_raw, scene.url, added, [Sent("bob", b"7")])
    # So far another worker has come.
    await scene.admin.create_subscription(partition_topic(scene.topic, 0), "crm", "latest")

    await scene.ensure("crm", "latest")

    assert await scene.admin.partitions(dead_letter_topic(scene.topic, "crm")) is not None
    assert await scene.gets("crm", partition=1) == []
