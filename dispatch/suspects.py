"""Attempts that count only if the destination turns out not to be down."""

from __future__ import annotations

from typing import Final

from dispatch.breaker import Breaker
from dispatch.lane import Entry
from dispatch.lanes import Lanes

#: More than one worker attempts in the time that it takes to find out; what is beyond it counts.
MAX_SUSPECTS: Final = 50_000


class Suspects:
    """Events that failed as all would, since the last that was delivered.

    Remembered is how many attempts each had before. If the breaker opens it has those again.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._attempts_before: dict[Entry, int] = {}

    def add(self, entry: Entry) -> None:
        if len(self._attempts_before) < MAX_SUSPECTS:
            self._attempts_before.setdefault(entry, entry.attempts)

    def judge(self, breaker: Breaker, *, is_delivered: bool) -> int:
        """To be asked after every outcome; returns how many were let off."""
        suspects = self._attempts_before
        if not suspects or breaker.is_suspicious:
            return 0
        if breaker.is_open:
            for entry, attempts in suspects.items():
                self._lanes.forgive(entry, attempts)
        elif not is_delivered:
            return 0
        count = len(suspects) if breaker.is_open else 0
        suspects.clear()
        return count
