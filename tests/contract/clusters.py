"""The brokers that the suite runs on, and what it needs of them beside the port."""

from __future__ import annotations

from typing import Any, Protocol

import aiohttp

from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.memory import MemoryBroker
from keylane.memorycluster import MemoryCluster
from keylane.names import full_topic
from keylane.pulsar import PulsarBroker
from keylane.settings import PulsarSettings
from keylane.tabletopic import ensure_table
from tests.waiting import until


class Cluster(Protocol):
    """What the suite needs beside the port, of either broker."""

    def session(self) -> Broker: ...

    async def create_topic(self, topic: str, partitions: int) -> None:
        """Create it; 0 partitions for a plain topic."""
        ...

    async def create_subscription(self, topic: str, subscription: str) -> None: ...

    async def backlog(self, topic: str, subscription: str) -> int: ...

    async def unload(self, topic: str) -> None: ...

    async def create_table(self, topic: str) -> None: ...

    async def trim(self, topic: str) -> None:
        """Delete what nothing keeps."""
        ...

    async def compact(self, topic: str) -> None:
        """Return when it is done."""
        ...


class InMemory:
    def __init__(self) -> None:
        self.cluster = MemoryCluster()

    def session(self) -> Broker:
        return MemoryBroker(self.cluster)

    async def create_topic(self, topic: str, partitions: int) -> None:
        self.cluster.create_topic(topic, partitions)

    async def create_subscription(self, topic: str, subscription: str) -> None:
        self.cluster.create_subscription(topic, subscription)

    async def backlog(self, topic: str, subscription: str) -> int:
        return self.cluster.backlog(topic, subscription)

    async def unload(self, topic: str) -> None:
        self.cluster.unload(topic)

    async def create_table(self, topic: str) -> None:
        self.cluster.create_topic(topic)

    async def trim(self, topic: str) -> None:
        pass

    async def compact(self, topic: str) -> None:
        pass


class OnPulsar:
    def __init__(self, service_url: str, admin_url: str) -> None:
        self._service_url = service_url
        self._admin_url = admin_url

    def session(self) -> Broker:
        return PulsarBroker(service_url=self._service_url, token=None, operation_timeout_s=10)

    async def create_topic(self, topic: str, partitions: int) -> None:
        if partitions:
            await self._call("PUT", topic, "/partitions", json=partitions)
        else:
            await self._call("PUT", topic, "", json={})

    async def create_subscription(self, topic: str, subscription: str) -> None:
        path = f"/subscription/{subscription}"
        earliest = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
        await self._call("PUT", topic, path, json=earliest)

    async def backlog(self, topic: str, subscription: str) -> int:
        statistics = await self._call("GET", topic, "/partitioned-stats?perPartition=false")
        return int(statistics["subscriptions"][subscription]["msgBacklog"])

    async def unload(self, topic: str) -> None:
        await self._call("PUT", topic, "/unload")

    async def create_table(self, topic: str) -> None:
        settings = PulsarSettings(service_url=self._service_url, admin_url=self._admin_url)
        async with PulsarAdmin(settings) as admin:
            await ensure_table(admin, topic)

    async def trim(self, topic: str) -> None:
        await self._call("POST", topic, "/trim")

    async def compact(self, topic: str) -> None:
        await self._call("PUT", topic, "/compaction")

        async def is_done() -> bool:
            said = await self._call("GET", topic, "/compaction")
            assert said["status"] != "ERROR", said
            return bool(said["status"] == "SUCCESS")

        await until(is_done)

    async def _call(self, method: str, topic: str, path: str, json: object = None) -> Any:
        address = full_topic(topic).replace("persistent://", "persistent/")
        url = f"{self._admin_url}/admin/v2/{address}{path}"
        async with (
            aiohttp.ClientSession(raise_for_status=True) as http,
            http.request(method, url, json=json) as answer,
        ):
            return await answer.json() if method == "GET" else {}
