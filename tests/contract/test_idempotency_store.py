"""What every store of repeats must do; the suite runs on the one in memory and on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from ingest.idempotency.store import REMOVED, Store, StoreDown, Write, open_store
from keylane.errors import ConfigurationError
from tests.redisserver import (  # noqa: F401  fixtures
    RedisServer,
    redis_program_is_there,
    redis_server,
)
from tests.waiting import until

A, B, C = (bytes([letter]) * 32 for letter in b"abc")

MakeStore = Callable[..., Store]


@pytest.fixture(params=["memory", "redis"])
async def make_store(request: pytest.FixtureRequest) -> AsyncIterator[MakeStore]:
    opened: list[Store] = []
    url = "memory:"
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url

    def make(window_s: float = 60.0, reservation_s: float = 60.0) -> Store:
        store = open_store(url, window_s=window_s, reservation_s=reservation_s)
        assert store is not None
        opened.append(store)
        return store

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


async def held(store: Store, *names: bytes) -> list[bytes | None]:
    """What the names hold, asked by an exchange that can't succeed."""
    current = await store.exchange(names, [b"?"] * len(names), [None] * len(names))
    assert current is not None
    return current


async def test_names_hold_what_was_written(store: Store) -> None:
    made = await store.exchange([A, B, C], [None] * 3, [Write(b"1"), Write(b"2", True), None])

    assert made is None
    assert await held(store, A, B, C) == [b"1", b"2", None]


async def test_all_is_changed_or_nothing(store: Store) -> None:
    await store.exchange([B], [None], [Write(b"other")])

    current = await store.exchange([A, B, C], [None] * 3, [Write(b"1")] * 3)

    assert current == [None, b"other", None]
    assert await held(store, A, B, C) == [None, b"other", None]


async def test_a_name_that_is_left_alone_is_compared_all_the_same(store: Store) -> None:
    await store.exchange([B], [None], [Write(b"other")])

    assert await store.exchange([A, B], [None, None], [Write(b"1"), None]) == [None, b"other"]
    assert await store.exchange([A, B], [None, b"other"], [Write(b"1"), None]) is None
    assert await held(store, A, B) == [b"1", b"other"]


async def test_a_value_can_be_replaced_and_removed(store: Store) -> None:
    await store.exchange([A, B], [None, None], [Write(b"1", True), Write(b"2")])

    assert await store.exchange([A, B], [b"1", b"2"], [Write(b"3"), REMOVED]) is None
    assert await held(store, A, B) == [b"3", None]


async def test_values_are_any_bytes(store: Store) -> None:
    value = bytes(range(256)) * 4_000

    await store.exchange([A], [None], [Write(value)])

    assert await held(store, A) == [value]
    assert await store.exchange([A], [value], [Write(b"1")]) is None


async def test_many_names_are_changed_at_once(store: Store) -> None:
    names = [index.to_bytes(32) for index in range(10_000)]
    taken = names[4_321]
    await store.exchange([taken], [None], [Write(b"taken")])

    current = await store.exchange(names, [None] * 10_000, [Write(b"1", True)] * 10_000)

    assert current is not None
    assert [index for index, value in enumerate(current) if value] == [4_321]
    current[4_321] = b"taken"
    assert await store.exchange(names, current, [Write(b"1", True)] * 10_000) is None
    assert await held(store, *names) == [b"1"] * 10_000


async def test_a_lease_ends_by_itself_and_a_record_stays(make_store: MakeStore) -> None:
    store = make_store(reservation_s=0.2)
    await store.exchange([A, B], [None, None], [Write(b"1", True), Write(b"2")])
    assert await held(store, A) == [b"1"]

    async def has_ended() -> bool:
        return await held(store, A) == [None]

    await until(has_ended)
    assert await held(store, B) == [b"2"]


async def test_a_lease_that_is_written_again_lasts(make_store: MakeStore) -> None:
    store = make_store(reservation_s=0.6)
    await store.exchange([A, B], [None, None], [Write(b"1", True), Write(b"1", True)])

    async def other_has_ended() -> bool:
        await store.exchange([A], [b"1"], [Write(b"1", True)])
        return await held(store, B) == [None]

    await until(other_has_ended)
    assert await held(store, A) == [b"1"]


async def test_a_lease_that_becomes_a_record_stays(make_store: MakeStore) -> None:
    store = make_store(reservation_s=0.1)
    await store.exchange([A, B], [None, None], [Write(b"1", True), Write(b"1", True)])
    await store.exchange([A], [b"1"], [Write(b"done")])

    async def other_has_ended() -> bool:
        return await held(store, B) == [None]

    await until(other_has_ended)
    assert await held(store, A) == [b"done"]


async def test_a_record_is_forgotten_after_the_window(make_store: MakeStore) -> None:
    store = make_store(window_s=0.1)
    await store.exchange([A], [None], [Write(b"1")])

    async def is_forgotten() -> bool:
        return await held(store, A) == [None]

    await until(is_forgotten)


async def test_of_many_who_want_a_name_one_gets_it(store: Store) -> None:
    answers = await asyncio.gather(
        *(store.exchange([A], [None], [Write(b"%d" % n, True)]) for n in range(50))
    )

    assert answers.count(None) == 1
    winner = answers.index(None)
    assert [answer for answer in answers if answer] == [[b"%d" % winner]] * 49


async def test_two_processes_share_a_redis(redis_server: RedisServer) -> None:  # noqa: F811
    one, two = (
        open_store(url, window_s=60, reservation_s=60)
        for url in (redis_server.url, redis_server.socket_url)
    )
    assert one is not None
    assert two is not None
    await one.exchange([A], [None], [Write(b"1")])

    assert await held(two, A) == [b"1"]
    await one.close()
    await two.close()


async def test_a_redis_that_ended_is_down_and_one_that_is_back_is_up(
    redis_server: RedisServer,  # noqa: F811
) -> None:
    store = open_store(redis_server.url, window_s=60, reservation_s=60)
    assert store is not None
    await store.exchange([A], [None], [Write(b"1")])

    redis_server.kill()
    with pytest.raises(StoreDown):
        await store.exchange([A], [b"1"], [Write(b"2")])

    redis_server.start()
    assert await store.exchange([A], [None], [Write(b"2")]) is None
    await store.close()


async def test_a_connection_that_was_closed_meanwhile_is_opened_anew(
    redis_server: RedisServer,  # noqa: F811
) -> None:
    store = open_store(redis_server.url, window_s=60, reservation_s=60)
    assert store is not None
    await store.exchange([A], [None], [Write(b"1")])
    redis_server.stop()
    redis_server.start()

    assert await store.exchange([A], [None], [Write(b"2")]) is None
    await store.close()


async def test_nothing_readable_stands_in_redis(redis_server: RedisServer) -> None:  # noqa: F811
    from redis.asyncio import Redis

    store = open_store(redis_server.url, window_s=60, reservation_s=30)
    assert store is not None
    await store.exchange([A, B], [None, None], [Write(b"1"), Write(b"2", True)])
    client = Redis.from_url(redis_server.url)

    names = sorted(await client.keys("*"))
    assert names == [b"keylane:" + name.hex().encode() for name in (A, B)]
    lives = [await client.pttl(name) for name in names]
    assert 50_000 < lives[0] <= 60_000
    assert 20_000 < lives[1] <= 30_000
    await client.aclose()
    await store.close()


def test_off_is_no_store() -> None:
    assert open_store("off", window_s=1, reservation_s=1) is None


@pytest.mark.parametrize("url", ["redis://h:port", "redis://h/db?max_connections=x"])
def test_a_url_that_can_not_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url, window_s=1, reservation_s=1)


def test_no_password_stands_in_the_refusal() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store("redis://me:secret@h:port", window_s=1, reservation_s=1)

    assert "secret" not in str(refused.value)
