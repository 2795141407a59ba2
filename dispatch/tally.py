"""What a worker holds, counted; and whether it takes more."""

from __future__ import annotations

from dispatch.lane import Entry, Lane, State
from dispatch.options import LaneOptions
from dispatch.partition import Partition
from keylane.broker import Received

#: What a message takes beside its payload, about: the client's object, its metadata and properties.
MESSAGE_BYTES = 1_000


class Tally:
    """The only place where an entry changes its state, so that the counts are always true.

    `load` is what the receive gate goes by: events that could be attempted now, never parked ones,
    and of one lane no more than its share. Neither stuck nor slow users use up what all share.
    """

    def __init__(self, options: LaneOptions) -> None:
        self._options = options
        self.counts = [0] * len(State)
        self.load = 0
        #: Attempts that run for slow users, and of what is delivered once more.
        self.slow_running = 0
        #: Of entries that wait behind others.
        self.payload_bytes = 0
        #: Lanes whose head is at the broker.
        self.away = 0
        #: Lanes at `max_lane_events`.
        self.full: set[Lane] = set()
        self.is_receiving = True
        self._closed_s = 0.0
        self._closed_at = 0.0

    def enter(self, entry: Entry) -> None:
        self.counts[entry.state] += 1

    def move(self, entry: Entry, state: State) -> None:
        self.counts[entry.state] -= 1
        if entry.state is State.IN_FLIGHT:
            self._free_slot(entry)
        self.counts[state] += 1
        entry.state = state

    def hold_payload(self, entry: Entry, message: Received) -> None:
        """Its message is here, and waits."""
        entry.message = message
        entry.payload_bytes = len(message.value()) + MESSAGE_BYTES
        self.payload_bytes += entry.payload_bytes

    def drop_payload(self, entry: Entry, state: State) -> None:
        """Let go of its message: it is to be, or can be, sent again."""
        self.payload_bytes -= entry.payload_bytes
        entry.payload_bytes = 0
        entry.message = None
        self.move(entry, state)

    def leave(self, entry: Entry) -> None:
        self.counts[entry.state] -= 1
        if entry.state is State.IN_FLIGHT:
            self._free_slot(entry)
        self.payload_bytes -= entry.payload_bytes
        entry.payload_bytes = 0
        entry.lane = None
        entry.message = None

    def take_slow_slot(self, lane: Lane) -> None:
        """Its head runs as one of those that slow users may have."""
        lane.takes_slow_slot = True
        self.slow_running += 1

    def _free_slot(self, entry: Entry) -> None:
        lane = entry.lane
        if lane is not None and lane.takes_slow_slot:
            lane.takes_slow_slot = False
            self.slow_running -= 1

    @property
    def payload_events(self) -> int:
        """How many events of one lane may have their payload here."""
        options = self._options
        if self.payload_bytes < options.payload_budget_bytes:
            return options.lane_payload_events
        return min(options.lane_payload_events, options.scarce_payload_events)

    def weigh(self, lane: Lane) -> None:
        """Make the sums true to what the lane is now; to be called after every change of it."""
        size = len(lane)
        weight = 0
        is_away = False
        if size:
            head = lane.head
            if head.state is State.HELD or head.state is State.IN_FLIGHT:
                weight = 1 if head.attempt > 1 else min(size, self._options.lane_share)
            else:
                is_away = head.state is State.AWAITED or head.state is State.PAGED
        self.load += weight - lane.weight
        lane.weight = weight
        if is_away is not lane.is_away:
            self.away += 1 if is_away else -1
            lane.is_away = is_away
        if size >= self._options.max_lane_events:
            self.full.add(lane)
        elif self.full:
            self.full.discard(lane)

    def drop_all_but_running(self, partition: Partition, lane: Lane) -> None:
        """Drop what the broker will send again if it is still ours; an attempt goes on.

        An event that is to be dead-lettered is kept too, or it would be attempted again.
        """
        head = lane.head
        is_running = head.state in (State.IN_FLIGHT, State.DEAD_LETTERING)
        if not is_running and not head.is_condemned:
            self.forget(partition, lane)
            return
        head.is_stray = True
        for entry in lane:
            if entry is not head:
                self.leave(entry)
        lane.keep([head])
        lane.is_given_back = lane.is_fetching = False
        self.weigh(lane)

    def forget(self, partition: Partition, lane: Lane) -> None:
        """Drop all of it; the key has a new lane when something of it arrives."""
        for entry in lane:
            self.leave(entry)
        lane.keep([])
        self.weigh(lane)
        del partition.lanes[lane.key]

    def open_gate(self, now: float, *, is_anything_ready: bool) -> bool:
        """Decide whether to receive. Closed at the limit, open again at three quarters of it.

        While a slot has nothing to do it is open anyway: those who could use it may stand behind
        the deep lanes.
        """
        limit = self._options.gate_events
        if not self.is_receiving:
            limit = limit * 3 // 4
        in_flight = self.counts[State.IN_FLIGHT]
        is_idle = not is_anything_ready and in_flight < self._options.concurrency
        is_open = (is_idle or self.load < limit) and not self._is_held_up()
        if is_open is not self.is_receiving:
            self._closed_s = self.gate_closed_s(now)
            self._closed_at = now
            self.is_receiving = is_open
        return is_open

    def gate_closed_s(self, now: float) -> float:
        """For how long the gate was closed, in all."""
        return self._closed_s + (0.0 if self.is_receiving else now - self._closed_at)

    def _is_held_up(self) -> bool:
        return any(not lane.needs_receiving for lane in self.full)
