"""What the broker holds at the end: dead letters, and what no destination has acknowledged."""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import quote

import aiohttp
import orjson

from keylane.admin import PulsarAdmin
from keylane.errors import BrokerUnavailable
from keylane.memorycluster import MemoryCluster
from keylane.names import (
    DEAD_LETTER_SUBSCRIPTION,
    dead_letter_topic,
    full_topic,
    partition_topic,
)
from keylane.settings import Settings
from operate.verdict import DeadLetter

#: The header in which Pulsar gives a message's properties, as JSON.
_PROPERTIES: Final = "X-Pulsar-PROPERTY"


class Witness(Protocol):
    """Tells of one topic and its destinations."""

    async def dead_letters(self, destination: str) -> list[DeadLetter]: ...

    async def backlog(self, destination: str) -> int:
        """Events that the destination has not acknowledged."""
        ...


class PulsarWitness:
    """Asks the broker's admin interface; reading there takes nothing off a topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def dead_letters(self, destination: str) -> list[DeadLetter]:
        topic = dead_letter_topic(self._settings.topic, destination)
        async with PulsarAdmin(self._settings.pulsar) as admin:
            stats = await admin.subscription_stats(topic, DEAD_LETTER_SUBSCRIPTION)
        count = int(stats["msgBacklog"]) if stats else 0
        try:
            async with aiohttp.ClientSession(raise_for_status=True) as session:
                return [await self._peek(session, topic, place) for place in range(1, count + 1)]
        except aiohttp.ClientError as error:
            raise BrokerUnavailable(
                f"The dead letters of {topic} can't be read: {error}"
            ) from error

    async def _peek(self, session: aiohttp.ClientSession, topic: str, place: int) -> DeadLetter:
        path = full_topic(topic).replace("://", "/", 1)
        url = (
            f"{self._settings.pulsar.admin_url.rstrip('/')}/admin/v2/{quote(path)}"
            f"/subscription/{DEAD_LETTER_SUBSCRIPTION}/position/{place}"
        )
        async with session.get(url) as answer:
            return _dead_letter(orjson.loads(answer.headers.get(_PROPERTIES, "{}")))

    async def backlog(self, destination: str) -> int:
        topic = self._settings.topic
        async with PulsarAdmin(self._settings.pulsar) as admin:
            found = [
                await admin.subscription_stats(partition_topic(topic, number), destination)
                for number in range(await admin.partitions(topic) or 0)
            ]
        return sum(int(stats["msgBacklog"]) for stats in found if stats)


class MemoryWitness:
    """Looks into the cluster of this process."""

    def __init__(self, cluster: MemoryCluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic

    async def dead_letters(self, destination: str) -> list[DeadLetter]:
        messages = self._cluster.messages(dead_letter_topic(self._topic, destination))
        return [_dead_letter(message.properties()) for message in messages]

    async def backlog(self, destination: str) -> int:
        return self._cluster.backlog(self._topic, destination)


def _dead_letter(properties: dict[str, str]) -> DeadLetter:
    return DeadLetter(
        id=properties.get("ce_id", ""),
        reason=properties.get("keylane-reason", ""),
        attempts=int(properties.get("keylane-attempts") or 0),
        last_error=properties.get("keylane-last-error", ""),
    )
