"""A table in memory: a plain topic of the cluster, and those who listen to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from keylane.broker import OutgoingMessage
from keylane.errors import BrokerUnavailable, EventTooLarge, PublishUnconfirmed
from keylane.memorycluster import MemoryCluster


class MemoryTable:
    """Keeps nothing of its own: what was put stays with the cluster."""

    def __init__(
        self, cluster: MemoryCluster, topic: str, hear: Callable[[str, bytes], None]
    ) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(topic)
        self._hear = hear
        self._listeners = cluster.table_listeners.setdefault(topic, [])
        self._is_closed = False
        self._read()
        self._listeners.append(self._hear_soon)

    def _read(self) -> None:
        latest: dict[str, bytes] = {}
        for message in self._topic.partitions[0].log.messages:
            latest.pop(message.key, None)
            if message.payload:
                latest[message.key] = message.payload
        for key, value in latest.items():
            self._hear(key, value)

    def _hear_soon(self, key: str, value: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._hear_unless_closed, key, value)

    def _hear_unless_closed(self, key: str, value: bytes) -> None:
        if not self._is_closed:
            self._hear(key, value)

    async def put(self, key: str, value: bytes) -> None:
        settings = self._cluster.settings
        if self._is_closed:
            raise BrokerUnavailable("The table is closed; nothing was put.")
        if len(value) > settings.max_message_bytes:
            raise EventTooLarge
        if not self._cluster.is_up:
            raise PublishUnconfirmed
        if self._topic.refusal is not None:
            raise self._topic.refusal
        self._topic.partitions[0].log.append(OutgoingMessage(key, value), settings.now_ms())
        for hear in self._listeners:
            hear(key, value)
        await asyncio.sleep(0)

    async def catch_up(self) -> None:
        if self._is_closed or not self._cluster.is_up:
            raise BrokerUnavailable
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        loop.call_soon(_end, heard)
        await heard

    async def close(self) -> None:
        self._is_closed = True
        if self._hear_soon in self._listeners:
            self._listeners.remove(self._hear_soon)


def _end(heard: asyncio.Future[None]) -> None:
    if not heard.done():
        heard.set_result(None)
