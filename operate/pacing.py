"""So many a second, and no faster."""

from __future__ import annotations

import asyncio
from typing import Final

#: Seconds between two turns: what is due by then is done at once.
_TURN_S: Final = 0.02
#: Events that are read of each partition in a second, at most: the broker that is read from
#: delivers live events meanwhile. Whoever gives a rate wants to be gentle: then so many are read
#: for each that may be done, but at least so many in all.
_READ_RATE: Final = 5_000.0
_READS_EACH: Final = 10.0
_LEAST_READ_RATE: Final = 2_000.0


class Pacing:
    """`rate` is what may be done in a second; None for as much as can be."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    def of_reading(self, partitions: int) -> Pacing:
        """The pace at which these partitions together are read for what is done at this pace."""
        rate = _READ_RATE * max(1, partitions)
        if self._rate is not None:
            rate = min(rate, max(_LEAST_READ_RATE, _READS_EACH * self._rate))
        return Pacing(rate)

    def at_most(self, most: int) -> int:
        """How many to do in one turn, so that they come evenly."""
        return most if self._rate is None else max(1, min(most, int(self._rate * _TURN_S)))

    async def turn(self, count: int) -> None:
        """Return when so many more may be done."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        due_at = max(now, self._free_at)
        self._free_at = due_at + count / self._rate
        await asyncio.sleep(due_at - now)
