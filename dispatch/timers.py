"""What is to happen to a lane later, in order of time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from enum import IntEnum
from itertools import count
from typing import NamedTuple

from dispatch.lane import Entry, Lane


class Due(IntEnum):
    """What a timer is for."""

    BACKOFF = 0
    """The head's delay is over."""
    AWAIT = 1
    """The head should be back by now."""
    FORGET = 2
    """Nothing will come any more for a lane that was given back."""


class Timer(NamedTuple):
    """Rings once. It can't be cancelled: whoever hears it checks that `lane` still stands for its
    key, that `entry` is still what it was set for, and `token`, which tells a newer timer of the
    same purpose from an older one."""

    at: float
    sequence: int
    due: Due
    lane: Lane
    entry: Entry | None
    token: float


class Timers:
    """A heap of timers."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._sequence = count()

    def set(
        self, at: float, due: Due, lane: Lane, entry: Entry | None = None, token: float = 0.0
    ) -> None:
        heapq.heappush(self._heap, Timer(at, next(self._sequence), due, lane, entry, token))

    def ring(self, now: float) -> Iterator[Timer]:
        """Take those due by `now`, also those set while this runs."""
        while self._heap and self._heap[0].at <= now:
            yield heapq.heappop(self._heap)

    def next_at(self) -> float:
        return self._heap[0].at if self._heap else math.inf
