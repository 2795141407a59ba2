"""What a worker holds, counted; and whether it takes more."""

from __future__ import annotations

from dispatch.lane import Entry, Lane, State
from dispatch.options import LaneOptions


class Tally:
    """The only place where an entry changes its state, so that the counts are always true.

    `load` is what the receive gate goes by: events that could be attempted now, never parked ones,
    and of one lane no more than its share. Neither stuck nor slow users use up what all share.
    """

    def __init__(self, options: LaneOptions) -> None:
        self._options = options
        self.counts = [0] * len(State)
        self.load = 0
        #: Lanes at `max_lane_events`.
        self.full: set[Lane] = set()
        self.is_receiving = True

    def enter(self, entry: Entry) -> None:
        self.counts[entry.state] += 1

    def move(self, entry: Entry, state: State) -> None:
        self.counts[entry.state] -= 1
        self.counts[state] += 1
        entry.state = state

    def leave(self, entry: Entry) -> None:
        self.counts[entry.state] -= 1
        entry.lane = None
        entry.message = None

    def weigh(self, lane: Lane) -> None:
        """Make the sums true to what the lane is now; to be called after every change of it."""
        size = len(lane)
        weight = 0
        if size:
            head = lane.head
            if head.state is State.HELD or head.state is State.IN_FLIGHT:
                weight = 1 if head.attempt > 1 else min(size, self._options.lane_share)
        self.load += weight - lane.weight
        lane.weight = weight
        if size >= self._options.max_lane_events:
            self.full.add(lane)
        elif self.full:
            self.full.discard(lane)

    def open_gate(self, *, is_anything_ready: bool) -> bool:
        """Decide whether to receive. Closed at the limit, open again at three quarters of it.

        While a slot has nothing to do it is open anyway: those who could use it may stand behind
        the deep lanes.
        """
        limit = self._options.gate_events
        if not self.is_receiving:
            limit = limit * 3 // 4
        in_flight = self.counts[State.IN_FLIGHT]
        is_idle = not is_anything_ready and in_flight < self._options.concurrency
        self.is_receiving = (is_idle or self.load < limit) and not self._is_held_up()
        return self.is_receiving

    def _is_held_up(self) -> bool:
        # A full lane whose head is on its way back must receive, or it would never drain.
        return any(lane.head.state is not State.AWAITED for lane in self.full)
