"""Waiting for what must happen, instead of sleeping for as long as it may take."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

INTERVAL_S = 0.005


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    within_s: float = 10.0,
    saying: Callable[[], object] = lambda: "",
) -> None:
    """Return as soon as the condition holds; fail the test if it does not in time.

    `saying` gives what a failure should show beside the condition.
    """
    deadline = time.monotonic() + within_s
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        if time.monotonic() > deadline:
            line = inspect.getsource(condition).strip()
            raise AssertionError(f"Not within {within_s} s: {line} {saying()}")
        await asyncio.sleep(INTERVAL_S)
