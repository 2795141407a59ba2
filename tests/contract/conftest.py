from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import pytest

from keylane.broker import Broker
from tests.contract.clusters import Cluster, InMemory, OnPulsar
from tests.contract.scene import Scene

MakeScene: TypeAlias = Callable[[int], Awaitable[Scene]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", pytest.param("pulsar", marks=pytest.mark.real_broker)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "memory":
        return InMemory()
    address = request.getfixturevalue("local_broker")
    return OnPulsar(address.service_url, address.admin_url)


@pytest.fixture
async def broker(cluster: Cluster) -> AsyncIterator[Broker]:
    broker = cluster.session()
    yield broker
    await broker.close()


@pytest.fixture
async def other_broker(cluster: Cluster) -> AsyncIterator[Broker]:
    broker = cluster.session()
    yield broker
    await broker.close()


@pytest.fixture
async def make_scene(cluster: Cluster, broker: Broker) -> MakeScene:
    async def make(partitions: int) -> Scene:
        topic = f"contract-{uuid.uuid4().hex[:12]}"
        await cluster.create_topic(topic, partitions)
        return Scene(cluster, broker, topic)

    return make


@pytest.fixture
async def scene(make_scene: MakeScene) -> Scene:
    """One partition, so that every key is there."""
    return await make_scene(1)
