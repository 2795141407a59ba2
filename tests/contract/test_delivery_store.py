"""What every store of deliveries does: in memory, on a real Redis, in a topic, and both."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from dispatch.once.opening import open_store
from dispatch.once.store import DeliveryStore, Doubt, Mark, Record, StoreDown, unix_ms
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.memory import MemoryBroker
from keylane.memorycluster import MemoryCluster
from keylane.names import deliveries_topic
from keylane.pulsar import PulsarBroker
from tests.contract.clusters import OnPulsar
from tests.redisserver import (  # noqa: F401  fixtures
    RedisServer,
    redis_program_is_there,
    redis_server,
)
from tests.waiting import until

A, B, C = (bytes([letter]) * 16 for letter in b"abc")

MakeStore = Callable[..., DeliveryStore]

STORES = [
    "memory",
    "redis",
    "topic",
    "topic and redis",
    pytest.param("pulsar", marks=pytest.mark.real_broker),
    pytest.param("pulsar and redis", marks=pytest.mark.real_broker),
]


@pytest.fixture
async def make_store(request: pytest.FixtureRequest) -> AsyncIterator[MakeStore]:
    """Stores of workers of one destination; each has a session with the broker of its own."""
    kind: str = request.param
    topic = f"events-{uuid.uuid4().hex[:12]}"
    cluster, opened, brokers = MemoryCluster(), list[DeliveryStore](), list[Broker]()
    url = "memory:" if kind == "memory" else "pulsar:"
    if "redis" in kind:
        address = request.getfixturevalue("redis_server").url
        url = address if kind == "redis" else f"pulsar+{address}"
    local = request.getfixturevalue("local_broker") if kind.startswith("pulsar") else None
    if local is not None:
        on_pulsar = OnPulsar(local.service_url, local.admin_url)
        await on_pulsar.create_table(deliveries_topic(topic, "crm"))

    def make(ttl_s: float = 60.0, destination: str = "crm") -> DeliveryStore:
        brokers.append(PulsarBroker(local.service_url) if local else MemoryBroker(cluster))
        store = open_store(
            url, broker=brokers[-1], topic=topic, destination=destination, ttl_s=ttl_s
        )
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()
    for broker in brokers:
        await broker.close()


def delivered(store: DeliveryStore) -> Record:
    return Record(Mark.DELIVERED, store.who, unix_ms())


def marks(found: list[Record | None]) -> list[Mark | None]:
    return [None if record is None else record.mark for record in found]


async def finished(store: DeliveryStore, *names: bytes) -> list[bool]:
    """Which are known to have ended, by who may have missed the last moments."""
    found = await store.begin(names, Doubt.REDELIVERED)
    return [record is not None and record.mark is not Mark.STARTED for record in found]


all_stores = pytest.mark.parametrize("make_store", STORES, indirect=True)
shared_stores = pytest.mark.parametrize("make_store", STORES[1:], indirect=True)


@all_stores
async def test_a_delivery_is_known_afterwards(make_store: MakeStore) -> None:
    store = make_store()
    assert await store.begin([A, B], Doubt.UNSEEN) == [None, None]

    await store.finish({A: delivered(store), B: None})

    assert await finished(store, A, B, C) == [True, False, False]


@all_stores
async def test_a_refusal_comes_back_as_it_was(make_store: MakeStore) -> None:
    store = make_store()
    refusal = Record(Mark.REFUSED, store.who, unix_ms(), "0:1:2", 400, "no: Größe 🦀")

    await store.finish({A: refusal})

    assert await store.begin([A], Doubt.NONE) == [refusal]


@all_stores
async def test_a_record_is_forgotten_after_its_time(make_store: MakeStore) -> None:
    store = make_store(ttl_s=0.3)
    await store.finish({A: delivered(store)})

    async def is_forgotten() -> bool:
        return await finished(store, A) == [False]

    await until(is_forgotten)


@all_stores
async def test_a_record_that_is_written_again_lasts(make_store: MakeStore) -> None:
    store = make_store(ttl_s=1.0)
    await store.finish({A: delivered(store), B: delivered(store)})

    async def other_is_forgotten() -> bool:
        await store.finish({A: delivered(store)})
        return await finished(store, B) == [False]

    await until(other_is_forgotten)
    assert await finished(store, A) == [True]


@all_stores
async def test_many_are_asked_for_and_written_at_once(make_store: MakeStore) -> None:
    store = make_store()
    names = [number.to_bytes(16) for number in range(1_500)]

    await asyncio.gather(*(store.finish({name: delivered(store)}) for name in names[::2]))
    found = await asyncio.gather(*(store.begin([name], Doubt.NONE) for name in names))

    assert [marks(records) for records in found] == [[Mark.DELIVERED], [None]] * 750


@shared_stores
async def test_the_next_worker_knows_what_another_finished(make_store: MakeStore) -> None:
    one, two = make_store(), make_store()
    await two.begin([A], Doubt.UNSEEN)

    for number in range(20):
        name = number.to_bytes(16)
        await one.finish({name: delivered(one)})
        assert await finished(two, name) == [True]


@shared_stores
async def test_a_worker_that_comes_later_knows_it_too(make_store: MakeStore) -> None:
    one = make_store()
    await one.finish({A: delivered(one)})
    await one.close()
    late = make_store()

    await late.open()

    assert marks(await late.begin([A, B], Doubt.NONE)) == [Mark.DELIVERED, None]


@pytest.mark.parametrize("make_store", ["redis"], indirect=True)
async def test_an_attempt_that_began_is_known_to_others_until_it_is_taken_back(
    make_store: MakeStore,
) -> None:
    one, two = make_store(), make_store()
    await one.begin([A, B], Doubt.NONE)

    found = await two.begin([A, B], Doubt.NONE)
    assert marks(found) == [Mark.STARTED, Mark.STARTED]
    assert {record.who for record in found if record} == {one.who}

    await two.finish({A: None})
    assert marks(await two.begin([A], Doubt.NONE)) == [Mark.STARTED]
    await one.finish({A: None, B: delivered(one)})
    assert marks(await two.begin([A, B], Doubt.NONE)) == [None, Mark.DELIVERED]
    await two.finish({B: None})
    assert marks(await one.begin([B], Doubt.NONE)) == [Mark.DELIVERED]


@pytest.mark.parametrize("make_store", ["redis"], indirect=True)
async def test_a_redis_that_ended_is_down_and_one_that_is_back_is_up(
    make_store: MakeStore,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    store = make_store()
    await store.finish({A: delivered(store)})

    redis_server.kill()
    with pytest.raises(StoreDown):
        await store.begin([A], Doubt.NONE)
    with pytest.raises(StoreDown):
        await store.finish({A: delivered(store)})

    redis_server.start()
    assert await store.begin([A], Doubt.NONE) == [None]


@pytest.mark.parametrize("make_store", ["redis"], indirect=True)
async def test_a_redis_that_says_nothing_is_down_soon(
    make_store: MakeStore,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    store = make_store()
    await store.open()
    process = redis_server._process
    assert process is not None

    process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StoreDown):
            await store.begin([A], Doubt.NONE)
        with pytest.raises(StoreDown):
            await store.finish({A: delivered(store)})
        assert time.monotonic() - began < 5
    finally:
        process.send_signal(signal.SIGCONT)

    async def is_back() -> bool:
        try:
            await store.finish({B: delivered(store)})
        except StoreDown:
            return False
        return await finished(store, B) == [True]

    await until(is_back)


@pytest.mark.parametrize("make_store", ["redis"], indirect=True)
async def test_nothing_readable_stands_in_redis_and_everything_ends(
    make_store: MakeStore,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    from redis.asyncio import Redis

    store = make_store(ttl_s=60)
    await store.begin([A, B], Doubt.NONE)
    await store.finish({A: delivered(store)})

    client = Redis.from_url(redis_server.url)
    keys = sorted(await client.keys("*"))
    lives = [await client.pttl(key) for key in keys]
    await client.aclose()

    names = [b"keylane:once:" + name.hex().encode() for name in (A, B)]
    assert keys == [*names, b"keylane:once:memory"]
    assert 50_000 < lives[0] <= 60_000
    assert 110_000 < lives[1] <= 120_000


@pytest.mark.parametrize("how", ["flushed", "started anew", "away"])
@pytest.mark.parametrize(
    "make_store",
    ["topic and redis", pytest.param("pulsar and redis", marks=pytest.mark.real_broker)],
    indirect=True,
)
async def test_the_topic_makes_up_for_a_redis_that_lost_its_memory(
    make_store: MakeStore,
    redis_server: RedisServer,  # noqa: F811
    how: str,
) -> None:
    from redis.asyncio import Redis

    one, two = make_store(), make_store()
    await two.open()
    await one.finish({A: delivered(one)})

    if how == "flushed":
        client = Redis.from_url(redis_server.url)
        await client.flushall()
        await client.aclose()
    else:
        redis_server.kill()
    if how == "started anew":
        redis_server.start()

    late = make_store()
    assert marks(await two.begin([A], Doubt.UNSEEN)) == [Mark.DELIVERED]
    assert marks(await late.begin([A], Doubt.UNSEEN)) == [Mark.DELIVERED]
    await two.finish({B: delivered(two)})
    assert await finished(one, B) == [True]


async def test_a_topic_store_is_down_with_its_broker_and_up_with_it() -> None:
    broker = MemoryBroker()
    store = open_store("pulsar:", broker=broker, topic="t", destination="crm", ttl_s=60)
    broker.cluster.stop()
    with pytest.raises(StoreDown):
        await store.open()
    broker.cluster.start()

    await store.finish({A: delivered(store)})
    broker.cluster.stop()
    with pytest.raises(StoreDown):
        await store.begin([B], Doubt.UNSEEN)
    with pytest.raises(StoreDown):
        await store.finish({B: delivered(store)})
    assert await finished(store, A) == [True]
    broker.cluster.start()

    assert marks(await store.begin([A, B], Doubt.UNSEEN)) == [Mark.DELIVERED, None]
    await store.close()


@pytest.mark.parametrize(
    "url", ["", "memory", "file:x", "redis:", "redis://h:port", "pulsar+file:x"]
)
async def test_a_url_that_can_not_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url, broker=MemoryBroker(), topic="t", destination="crm", ttl_s=1)


async def test_no_password_stands_in_the_refusal() -> None:
    for url in ("redis://me:secret@h:port", "pulsar+rediss://me:secret@h:port", "x://me:secret@h"):
        with pytest.raises(ConfigurationError) as refused:
            open_store(url, broker=MemoryBroker(), topic="t", destination="crm", ttl_s=1)

        assert "secret" not in str(refused.value)
