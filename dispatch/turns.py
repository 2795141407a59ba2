"""Whose turn it is: lanes whose head can be attempted, one attempt each, round robin.

Users whose attempts take long stand in a round of their own, which has a share of the slots and no
more: however many they are, the others find room. So does what is delivered once more.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dispatch.lane import Entry, Lane, LaneKey, State
from dispatch.options import LaneOptions
from dispatch.partition import Lately, Partition
from dispatch.tally import Tally
from keylane.names import WHOLE

#: For so long, at least, a user of whom nothing is here is remembered as slow.
SLOW_KEPT_S: Final = 300.0


class Turns:
    """Two rounds of lanes. A lane stands in one, once, and again when its next head is ready."""

    def __init__(self, tally: Tally, options: LaneOptions) -> None:
        self._tally = tally
        self._slow_after_s = options.slow_after_s
        self._slow_limit = options.slow_limit
        self._ready: deque[Lane] = deque()
        self._slow: deque[Lane] = deque()
        self._is_turn_of_slow = False
        #: How many of those that stand here are delivered once more.
        self.once_more = 0
        self._slow_users: Lately[LaneKey, None] = Lately(SLOW_KEPT_S)
        self._any_slow = False

    def __len__(self) -> int:
        return len(self._ready) + len(self._slow)

    @property
    def can_start(self) -> bool:
        """Whether a free slot would be used."""
        return bool(self._ready) or self._may_slow_start

    @property
    def _may_slow_start(self) -> bool:
        return bool(self._slow) and self._tally.slow_running < self._slow_limit

    def join(self, lane: Lane) -> None:
        """Queue up at the end, unless it waits for a predecessor or stands here already."""
        if not lane.is_queued and not lane.is_settling:
            lane.is_queued = True
            self._line_up(lane)

    def release(self, partition: Partition) -> None:
        """Those whose turn came while nothing could start have it now."""
        for lane in partition.withheld:
            self._line_up(lane)
        partition.withheld.clear()

    def took(self, lane: Lane, now: float) -> None:
        """Its attempt is over; what comes next of this user is treated by how long that took."""
        if now - lane.started_at >= self._slow_after_s:
            self._slow_users.put(lane.key, None)
            self._slow_users.forget_older(now)
            self._any_slow = True
        elif self._any_slow:
            self._slow_users.discard(lane.key)

    def take(self, partitions: dict[int, Partition], limit: int, now: float) -> list[Entry]:
        """The heads of the next lanes; they are IN_FLIGHT from now on."""
        started: list[Entry] = []
        ready = self._ready
        while len(started) < limit:
            if self._slow and self._may_slow_start and (self._is_turn_of_slow or not ready):
                lane = self._slow.popleft()
                self._is_turn_of_slow = False
                self.once_more -= lane.partition == WHOLE
            elif ready:
                lane = ready.popleft()
                self._is_turn_of_slow = True
            else:
                break
            if not partitions[lane.partition].is_trusted:
                partitions[lane.partition].withheld.append(lane)
                continue
            lane.is_queued = False
            # It may have been forgotten, or got an earlier head, since it was queued.
            if (
                len(lane)
                and not lane.is_settling
                and lane.is_cleared
                and lane.head.state is State.HELD
            ):
                self.start(lane, now)
                started.append(lane.head)
        return started

    def start(self, lane: Lane, now: float) -> None:
        """Its head is attempted from now on."""
        self._tally.move(lane.head, State.IN_FLIGHT)
        lane.started_at = now
        if lane.is_slow:
            self._tally.take_slow_slot(lane)

    def _line_up(self, lane: Lane) -> None:
        is_once_more = lane.partition == WHOLE
        self.once_more += is_once_more
        lane.is_slow = is_once_more or (self._any_slow and lane.key in self._slow_users)
        (self._slow if lane.is_slow else self._ready).append(lane)
