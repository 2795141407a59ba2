"""Waiting for several things at once, of which none goes on after the wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(*work: Coroutine[Any, Any, None]) -> None:
    """Return when all is done; the first error ends the rest and comes out as it was raised."""
    async with _started(work) as tasks:
        await asyncio.gather(*tasks)


async def first_of(*work: Coroutine[Any, Any, T]) -> T:
    """Return what is done first, or raise what it raised; the rest is cancelled."""
    async with _started(work) as tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()


@asynccontextmanager
async def _started(
    work: tuple[Coroutine[Any, Any, T], ...],
) -> AsyncIterator[list[asyncio.Task[T]]]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
