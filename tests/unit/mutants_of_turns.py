"""Breakages of whose turn it is: slow users' share, and attempts that do not count."""

from __future__ import annotations

from typing import Final

from tests.unit.mutant import Mutant, in_lanes, in_tally
from tests.unit.schedules import SPARING


def in_turns(name: str, old: str, new: str, *, first: int = SPARING) -> Mutant:
    return Mutant(name, "dispatch/turns.py", old, new, first)


MUTANTS: Final = (
    in_turns(
        "slow users take every slot",
        "self._tally.slow_running < self._slow_limit",
        "True",
    ),
    in_turns(
        "slow users never have a turn",
        "        return bool(self._slow) and self._tally",
        "        return False and self._tally",
    ),
    in_turns(
        "slow users are forgotten when their partition is trusted again",
        "        for lane in partition.withheld:\n            self._line_up(lane)\n",
        "        for lane in partition.withheld:\n"
        "            if not lane.is_slow:\n                self._line_up(lane)\n",
        first=SPARING + 104,
    ),
    in_tally(
        "a slow user's slot is not free again when its event is done",
        "    def leave(self, entry: Entry) -> None:\n        self.counts[entry.state] -= 1\n"
        "        if entry.state is State.IN_FLIGHT:\n            self._free_slot(entry)\n",
        "    def leave(self, entry: Entry) -> None:\n        self.counts[entry.state] -= 1\n",
        first=SPARING,
    ),
    in_tally(
        "a slow user's slot is not free again when its attempt failed",
        "        self.counts[entry.state] -= 1\n"
        "        if entry.state is State.IN_FLIGHT:\n            self._free_slot(entry)\n"
        "        self.counts[state] += 1\n",
        "        self.counts[entry.state] -= 1\n        self.counts[state] += 1\n",
        first=SPARING,
    ),
    in_lanes(
        "an attempt that does not count is made again though it may be another's",
        "        if entry.is_stray:\n            # Perhaps",
        "        if False:\n            # Perhaps",
        first=SPARING + 8_997,
    ),
    in_lanes(
        "an event whose attempt does not count has no further turn",
        "            self._tally.move(entry, State.HELD)\n"
        "            self._reconsider(self.partitions[entry.lane.partition], entry.lane, now)\n",
        "            self._tally.move(entry, State.HELD)\n",
        first=SPARING + 41,
    ),
    in_lanes(
        "an attempt that is taken back still counts",
        "            entry.attempts = attempts\n            self._tally",
        "            self._tally",
        first=SPARING,
    ),
    in_lanes(
        "other workers are not told that an attempt was taken back",
        "            self._note(lane.head, lane.head.count)\n            self._absences",
        "            self._absences",
        first=SPARING + 1_230,
    ),
    Mutant(
        "a full lane that waits to be sent its head again stops everything",
        "dispatch/lane.py",
        "        return head.is_stray and head.state is State.BACKOFF\n",
        "        return False\n",
        first=1_047_118,
    ),
)
