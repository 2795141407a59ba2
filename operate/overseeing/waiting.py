"""Says on standard error what is waited for, if that takes a while."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from rich.console import Console

from operate.progress import LINE_EVERY_S

T = TypeVar("T")

#: Seconds after which something is said at all.
PATIENCE_S: Final = 2.0


async def saying(what: str, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`: with a moving sign on a terminal, else a line now and then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=PATIENCE_S)
        if sys.stderr.isatty() and not task.done():
            with Console(stderr=True).status(what):
                return await task
        while not task.done():
            sys.stderr.write(f"{what}\n")
            await asyncio.wait({task}, timeout=LINE_EVERY_S)
        return await task
    finally:
        task.cancel()
