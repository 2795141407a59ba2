"""Several processes, as far as the code can tell, on one real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ingest.idempotency import Store, open_store
from ingest.refusals import NotConfirmed, StillRunning, StoreUnavailable
from tests.redisserver import (  # noqa: F401  fixtures
    RedisServer,
    redis_program_is_there,
    redis_server,
)
from tests.unit.idempotency_desk import Desk, ids
from tests.waiting import until

MakeDesk = Callable[..., Desk]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def make_desk(redis_server: RedisServer) -> AsyncIterator[MakeDesk]:  # noqa: F811
    opened: list[tuple[Desk, Store]] = []

    def make(reservation_s: float = 30.0, **options: Any) -> Desk:
        store = open_store(redis_server.url, window_s=60, reservation_s=reservation_s)
        assert store is not None
        desk = Desk(store, reservation_s=reservation_s, **options)
        opened.append((desk, store))
        return desk

    yield make
    for desk, store in opened:
        await desk.repeats.close()
        await store.close()


async def test_of_processes_that_race_for_a_key_one_sends(make_desk: MakeDesk) -> None:
    desks = [make_desk() for _ in range(4)]

    results = await asyncio.gather(
        *(desk.post("ann", "bob:7", key="k") for desk in desks * 5), return_exceptions=True
    )

    assert sorted(len(desk.sent()) for desk in desks) == [0, 0, 0, 2]
    kinds = {type(result).__name__ for result in results}
    assert kinds <= {"Acceptance", "StillRunning"}
    again = [await desk.post("ann", "bob:7", key="k") for desk in desks]
    assert len({acceptance.body for acceptance in again}) == 1


async def test_of_processes_that_race_for_ids_one_sends_each(make_desk: MakeDesk) -> None:
    desks = [make_desk() for _ in range(3)]

    async def post(desk: Desk, first: int) -> None:
        while True:
            try:
                await desk.post(*(f"ann:{n}" for n in range(first, first + 20)))
            except StillRunning:
                await asyncio.sleep(0.001)
            else:
                return

    await asyncio.gather(*(post(desk, first) for desk in desks for first in range(0, 100, 10)))

    sent = [event_id for desk in desks for event_id in desk.sent()]
    assert sorted(sent, key=int) == [str(n) for n in range(110)]


async def test_a_killed_process_is_taken_over_after_its_reservation(make_desk: MakeDesk) -> None:
    dead, other = make_desk(reservation_s=0.4), make_desk(reservation_s=0.4)
    dead.publisher.hold()
    posting = asyncio.create_task(dead.post("ann", "bob:7", key="k"))
    await until(lambda: len(dead.sent()) == 2)
    dead.crash()
    posting.cancel()
    with pytest.raises(StillRunning):
        await other.post("ann", "bob:7", key="k")

    async def is_taken_over() -> bool:
        try:
            await other.post("ann", "bob:7", key="k")
        except StillRunning:
            return False
        return True

    await until(is_taken_over)
    assert other.sent() == dead.sent()


async def test_a_living_process_is_not_taken_over(make_desk: MakeDesk) -> None:
    desk = make_desk(reservation_s=0.3, deadline_s=0.02)
    other = make_desk(reservation_s=0.3)
    desk.publisher.hold()
    with pytest.raises(NotConfirmed):
        await desk.post("ann:1", key="k")
    passed = desk.line.exchanges

    await until(lambda: desk.line.exchanges > passed + 6)

    with pytest.raises(StillRunning):
        await other.post("ann:1", key="k")
    desk.publisher.release()
    await until(lambda: not desk.repeats._courses)
    assert ids(await other.post("ann:1", key="k")) == ["1"]
    assert other.sent() == []


async def test_a_redis_that_is_killed_meanwhile_does_not_spoil_the_answer(
    make_desk: MakeDesk,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    desk, other = make_desk(reservation_s=0.3), make_desk(reservation_s=0.3)
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann:1", "bob", key="k"))
    await until(lambda: len(desk.sent()) == 2)
    redis_server.kill()
    desk.publisher.release()

    accepted = await posting
    assert ids(accepted) == desk.sent()
    with pytest.raises(StoreUnavailable):
        await other.post("ann:1", "bob", key="k")

    # It comes back with nothing; what was stored is told to it all the same.
    redis_server.start()
    await until(lambda: not desk.repeats._courses)
    assert (await other.post("ann:1", "bob", key="k")).body == accepted.body
    assert (await other.post("ann:1")).duplicates == 1
    assert other.sent() == []


async def test_set_so_a_killed_redis_stops_nobody(
    make_desk: MakeDesk,
    redis_server: RedisServer,  # noqa: F811
) -> None:
    desk = make_desk(on_failure="accept")
    await desk.post("ann:1", key="k")
    redis_server.kill()

    await desk.post("bob:2", key="l")

    assert desk.sent() == ["1", "2"]
