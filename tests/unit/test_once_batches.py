"""Questions of one turn of the loop go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dispatch.once import batches
from dispatch.once.batches import Batches
from dispatch.once.store import StoreDown
from tests.waiting import until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Server:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def send(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        await self.gate.wait()
        if self.error:
            raise self.error
        return [question * 10 for question in questions]


async def test_what_is_asked_in_one_turn_is_one_batch() -> None:
    server = Server()
    asked = Batches(server.send)

    answers = await asyncio.gather(*(asked.ask(number) for number in range(5)))

    assert answers == [0, 10, 20, 30, 40]
    assert server.batches == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_too_many_are_under_way_goes_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_AT_ONCE", 1)
    server = Server()
    server.gate.clear()
    asked = Batches(server.send)
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(asked.ask(number)))
        await asyncio.sleep(0.001)
    assert server.batches == [[0]]

    server.gate.set()

    assert await asyncio.gather(*tasks) == [0, 10, 20, 30]
    assert server.batches == [[0], [1, 2, 3]]


async def test_a_batch_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MAX_BATCH", 2)
    server = Server()
    asked = Batches(server.send)

    answers = await asyncio.gather(*(asked.ask(number) for number in range(5)))

    assert answers == [0, 10, 20, 30, 40]
    assert server.batches == [[0, 1], [2, 3], [4]]


async def test_when_the_store_is_down_those_who_wait_hear_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_AT_ONCE", 1)
    server = Server()
    server.error = StoreDown("away")
    server.gate.clear()
    asked = Batches(server.send)
    first = asyncio.create_task(asked.ask(1))
    await until(lambda: bool(server.batches))
    second = asyncio.create_task(asked.ask(2))
    await asyncio.sleep(0)

    server.gate.set()
    errors = await asyncio.gather(first, second, return_exceptions=True)

    assert [str(error) for error in errors] == ["away", "away"]
    assert server.batches == [[1]]
    server.error = None
    assert await asked.ask(3) == 30


async def test_a_bug_leaves_nobody_waiting() -> None:
    server = Server()
    server.error = RuntimeError("bug")

    with pytest.raises(StoreDown, match="RuntimeError: bug"):
        await Batches(server.send).ask(1)


async def test_who_gave_up_is_not_asked_for_and_disturbs_nobody() -> None:
    server = Server()
    asked = Batches(server.send)
    gone, stays = (asyncio.create_task(asked.ask(number)) for number in range(2))
    await asyncio.sleep(0)

    gone.cancel()

    assert await stays == 10
    assert server.batches == [[1]]
    await asked.close()
