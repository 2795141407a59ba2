"""So many a second, and no faster."""

from __future__ import annotations

import asyncio


class Pacing:
    """`rate` is what may be done in a second; None for as much as can be."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._began: float | None = None
        self._given = 0

    def at_most(self, most: int) -> int:
        """How many to do at once, so that they come evenly: those of half a second."""
        return most if self._rate is None else max(1, min(most, int(self._rate / 2)))

    async def turn(self, count: int) -> None:
        """Return when so many more may be done."""
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        if self._rate is not None:
            await asyncio.sleep(max(0.0, self._began + self._given / self._rate - now))
        self._given += count
