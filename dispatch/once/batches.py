"""Questions of one turn of the event loop go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from dispatch.once.store import StoreDown

Question = TypeVar("Question")
Answer = TypeVar("Answer")

#: Batches under way at once; what comes meanwhile makes the next ones larger.
_AT_ONCE: Final = 4
_MAX_BATCH: Final = 500


class Batches(Generic[Question, Answer]):
    """`send` answers each question in its place, or raises `StoreDown` for all of them."""

    def __init__(self, send: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_due = False

    async def ask(self, question: Question) -> Answer:
        """Raises what `send` raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, answer))
        self._start_soon()
        return await answer

    def _start_soon(self) -> None:
        if self._waiting and not self._is_due and len(self._under_way) < _AT_ONCE:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._is_due = False
        batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        task = asyncio.create_task(self._run(batch))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        self._start_soon()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._start_soon()

    async def _run(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        batch = [asked for asked in batch if not asked[1].done()]
        try:
            answers = await self._send([question for question, _ in batch])
        except StoreDown as error:
            # Those who wait for their turn would only hear the same later.
            batch, self._waiting = batch + self._waiting, []
            _fail(batch, str(error))
        except Exception as error:  # noqa: BLE001  nobody may be left waiting
            _fail(batch, f"{type(error).__name__}: {error}")
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)


def _fail(batch: Sequence[tuple[Question, asyncio.Future[Answer]]], message: str) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(StoreDown(message))
