"""Waiting for what must happen, instead of sleeping for as long as it may take."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

#: To look is work for whoever is asked: seldom while it takes long, often enough to lose little.
SHORTEST_S, LONGEST_S = 0.005, 0.05
SHARE = 0.1


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    within_s: float = 10.0,
    saying: Callable[[], object] = lambda: "",
) -> None:
    """Return as soon as the condition holds; fail the test if it does not in time.

    `saying` gives what a failure should show beside the condition.
    """
    began = time.monotonic()
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            line = inspect.getsource(condition).strip()
            raise AssertionError(f"Not within {within_s} s: {line} {saying()}")
        await asyncio.sleep(min(max(SHORTEST_S, SHARE * waited_s), LONGEST_S))
