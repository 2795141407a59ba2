"""Keeps a flood of like log lines down to a trickle that says how many there were."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """Lets one line a kind through every `quiet_s` seconds."""

    def __init__(self, quiet_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet_s = quiet_s
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}

    def suppressed(self, kind: str) -> int | None:
        """How many lines were left out since the last one; None if this one is left out too."""
        now = self._clock()
        if now - self._said_at.get(kind, float("-inf")) < self._quiet_s:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        self._said_at[kind] = now
        return self._suppressed.pop(kind, 0)
