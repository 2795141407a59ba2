"""Breakages of leave: lanes that go on though their user is held."""

from __future__ import annotations

from typing import Final

from tests.unit.mutant import Mutant, in_lanes
from tests.unit.schedules import HOLDING

MUTANTS: Final = (
    Mutant(
        "nobody asks for leave",
        "dispatch/clearance.py",
        "        if self._is_needed:\n",
        "        if False:\n",
        first=HOLDING + 22,
    ),
    in_lanes(
        "a lane that opens has leave",
        "        self._doubt(lane)\n        self._tally.enter(entry)\n",
        "        self._tally.enter(entry)\n",
        first=HOLDING + 22,
    ),
    in_lanes(
        "what was given back has leave",
        "        if lane.is_given_back:\n            self._doubt(lane)\n",
        "",
        first=HOLDING + 7_213,
    ),
    in_lanes(
        "a lane that asked already asks no more",
        "            elif not lane.is_asking:\n",
        "            elif not lane.ticket:\n",
        first=HOLDING + 69,
    ),
    in_lanes(
        "leave is worth nothing",
        "            if not lane.is_settling:\n"
        "                self._reconsider(partition, lane, now)\n",
        "",
        first=HOLDING,
    ),
)
