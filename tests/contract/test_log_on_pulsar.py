from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pulsar
import pytest

from keylane.admin import PulsarAdmin
from keylane.pulsarlog import PulsarLogs
from keylane.settings import PulsarSettings
from tests.brokers import BrokerAddress
from tests.rawtopic import Sent, send_raw

pytestmark = pytest.mark.real_broker


@pytest.fixture
def topic() -> str:
    return f"log-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def access(local_broker: BrokerAddress) -> PulsarSettings:
    return PulsarSettings(service_url=local_broker.service_url, admin_url=local_broker.admin_url)


def send(access: PulsarSettings, topic: str, numbers: Iterable[int]) -> None:
    send_raw(access.service_url, topic, [Sent("user-1", b"%d" % number) for number in numbers])


def send_shared(access: PulsarSettings, topic: str, numbers: Iterable[int]) -> None:
    """All in one entry of the log."""
    client = pulsar.Client(
        access.service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    producer = client.create_producer(
        topic, batching_enabled=True, batching_max_publish_delay_ms=60_000
    )
    for number in numbers:
        producer.send_async(b"%d" % number, lambda *_: None)
    producer.flush()
    client.close()


async def numbers_up_to_now(access: PulsarSettings, topic: str) -> list[int]:
    async with PulsarAdmin(access) as admin, PulsarLogs(access) as logs:
        last = await admin.last_entry(topic)
        await asyncio.to_thread(send, access, topic, range(100, 105))
        reader = await logs.reader(topic, upto=last)
        found = []
        while batch := await reader.read(4):
            found += [int(message.value()) for message in batch]
        return found


async def test_a_log_is_read_up_to_what_was_its_end(access: PulsarSettings, topic: str) -> None:
    await asyncio.to_thread(send, access, topic, range(10))

    assert await numbers_up_to_now(access, topic) == list(range(10))


async def test_messages_that_share_the_last_entry_are_all_read(
    access: PulsarSettings, topic: str
) -> None:
    await asyncio.to_thread(send_shared, access, topic, range(10))

    assert await numbers_up_to_now(access, topic) == list(range(10))


async def test_nothing_is_read_of_a_log_that_was_empty(access: PulsarSettings, topic: str) -> None:
    await asyncio.to_thread(send, access, topic, ())

    assert await numbers_up_to_now(access, topic) == []


class SilentOnce:
    """The client's reader, which gets nothing any more after so many messages."""

    def __init__(self, reader: Any, messages: int) -> None:
        self._reader = reader
        self._left = messages

    def has_message_available(self) -> bool:
        return bool(self._reader.has_message_available())

    def read_next(self, timeout_ms: int) -> Any:
        if not self._left:
            raise pulsar.Timeout
        self._left -= 1
        return self._reader.read_next(timeout_ms)

    def close(self) -> None:
        self._reader.close()


@pytest.mark.parametrize("put", [send, send_shared])
@pytest.mark.parametrize("before", [0, 4])
async def test_a_reader_that_gets_nothing_any_more_is_opened_again_where_it_stood(
    access: PulsarSettings, topic: str, before: int, put: Callable[..., None]
) -> None:
    await asyncio.to_thread(put, access, topic, range(10))
    async with PulsarLogs(access) as logs:
        reader = await logs.reader(topic, from_ms=1)
        reader._reader = SilentOnce(reader._reader, before)

        found = await reader.read(20)

    assert [int(message.value()) for message in found] == list(range(10))
