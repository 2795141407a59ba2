"""Commands' sessions with workers on the in-memory broker, and an admin interface to that."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import unquote

from keylane.admin import PulsarAdmin
from keylane.memorycluster import Feed, MemoryCluster
from keylane.names import full_topic
from keylane.settings import Settings
from operate.controlsession import ControlSession
from operate.overseeing.overseer import Overseer
from tests.unit.worker_site import Site

HASHES = 65_536


class MemoryAdmin:
    """What the commands ask of Pulsar's admin interface, answered by a cluster in memory.

    `extra` are consumers that the broker lists and that are not there, by subscription.
    """

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self.extra: dict[str, list[str]] = {}

    async def partitions(self, topic: str) -> int | None:
        if full_topic(topic) not in self._cluster._topics:
            return None
        return self._cluster.partitions(topic)

    async def create_topic(self, topic: str) -> bool:
        return False

    async def policy(self, topic: str, name: str) -> Any:
        return None

    async def set_policy(self, topic: str, name: str, value: Any) -> None:
        pass

    async def stats(self, topic: str) -> dict[str, Any]:
        whole, _, number = topic.partition("-partition-")
        partition = self._cluster.topic(whole).partitions[int(number or 0)]
        return {"subscriptions": {n: self._subscription(n, f) for n, f in partition.feeds.items()}}

    async def subscription_stats(self, topic: str, subscription: str) -> dict[str, Any] | None:
        found = (await self.stats(topic))["subscriptions"].get(subscription)
        return None if found is None else dict(found)

    async def get(self, path: str) -> dict[str, Any] | None:
        topic = unquote(path.partition("/stats?")[0])
        name = topic.replace("persistent/", "persistent://", 1)
        return await self.stats(name) if name in self._cluster._topics else None

    def _subscription(self, name: str, feed: Feed) -> dict[str, Any]:
        pending = feed.subscription.pending()
        names = [*feed.connected, *self.extra.get(name, [])]
        return {
            "msgBacklog": feed.subscription.backlog(),
            "unackedMessages": sum(map(len, pending.values())),
            "isDurable": True,
            "consumers": [
                {
                    "consumerName": one,
                    "unackedMessages": len(pending.get(one, ())),
                    "connectedSince": "2026-01-31T12:00:00Z",
                    "keyHashRangeArrays": _ranges(index, len(names)),
                }
                for index, one in enumerate(names)
            ],
        }


def _ranges(index: int, count: int) -> list[list[int]]:
    size = HASHES // count
    last = HASHES - 1 if index == count - 1 else (index + 1) * size - 1
    return [[index * size, last]]


@contextlib.asynccontextmanager
async def overseen(site: Site, admin: MemoryAdmin | None = None) -> AsyncIterator[Overseer]:
    """A command's session with the site's workers."""
    settings = Settings(topic="events")
    as_admin = cast(PulsarAdmin, admin or MemoryAdmin(site.cluster))
    async with ControlSession(settings, as_admin, site.broker) as control:
        yield Overseer(settings, as_admin, control)
