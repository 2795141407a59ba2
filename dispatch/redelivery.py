"""What is given back to the broker, when, and in which order.

Pulsar's client redelivers nothing while calls come close together, so everything goes out in bursts
(keylane/broker.py has the numbers). In each: first heads whose backoff is over, because users wait
for them; then payloads that lanes will need; then the rest of lanes whose key moved.
"""

from __future__ import annotations

from collections import deque

from dispatch.lane import Entry, Lane, State
from dispatch.partition import Partition
from dispatch.tally import Tally
from keylane.broker import REDELIVERY_INTERVAL_S, Position


class Redelivery:
    """Makes the bursts of all partitions; the caller has asked whether one is owed."""

    def __init__(self, tally: Tally, burst: int) -> None:
        self._tally = tally
        self._burst = burst
        #: Payloads fetched again so far.
        self.fetched = 0
        #: Lanes whose head went out with the last bursts; the caller takes them.
        self.departed: list[Lane] = []

    def burst(self, partition: Partition, now: float) -> list[Position]:
        """What to negatively acknowledge now, if it is time; it is AWAITED from now on."""
        if now < partition.next_burst:
            return []
        partition.next_burst = now + REDELIVERY_INTERVAL_S
        burst: list[Position] = []
        while partition.due_heads and len(burst) < self._burst:
            entry = partition.due_heads.popleft()
            if entry.state is State.BACKOFF and entry.lane:
                # Whoever gets it now counts by the broker.
                partition.served.discard(entry.lane.key)
                self._send_back(entry, burst)
        while partition.due_pages and len(burst) < self._burst:
            self._fetch(partition, partition.due_pages.popleft(), burst)
        while partition.due_tails and len(burst) < self._burst:
            lane, position = partition.due_tails.popleft()
            self._send_back_tail(partition, lane, position, burst)
        return burst

    def fetch_soon(self, partition: Partition, lane: Lane) -> None:
        """Ask for payloads when half of those that the lane may have here are used up."""
        is_wanted = lane.window <= self._tally.payload_events // 2
        if lane.paged and is_wanted and not (lane.is_fetching or lane.is_given_back):
            lane.is_fetching = True
            partition.due_pages.append(lane)

    def give_back(self, partition: Partition, lane: Lane, position: Position) -> None:
        """Give back what stands behind the head from this position on, unless it is under way."""
        waiting = partition.due_tails
        if not (waiting and waiting[-1][0] is lane and waiting[-1][1] <= position):
            waiting.append((lane, position))

    def give_all_back(self, partition: Partition, lane: Lane) -> None:
        """Give back everything behind the head, in order, whatever of it was under way."""
        others = [due for due in partition.due_tails if due[0] is not lane]
        # From the first position there is: a late predecessor stands behind a started head.
        partition.due_tails = deque([*others, (lane, (-1, -1, -1))])

    def _fetch(self, partition: Partition, lane: Lane, burst: list[Position]) -> None:
        lane.is_fetching = False
        if lane.is_given_back:
            return
        wanted = min(self._tally.payload_events - lane.window, lane.paged)
        count = max(0, min(wanted, self._burst - len(burst)))
        first = len(lane.entries) - lane.paged
        for entry in lane.entries[first : first + count]:
            self._send_back(entry, burst)
        self.fetched += count
        if count < wanted:
            lane.is_fetching = True
            partition.due_pages.appendleft(lane)

    def _send_back_tail(
        self, partition: Partition, lane: Lane, position: Position, burst: list[Position]
    ) -> None:
        if not len(lane) or not lane.is_given_back:
            return
        for entry in lane.entries_from(position):
            if len(burst) >= self._burst:
                partition.due_tails.appendleft((lane, entry.position))
                return
            if entry.is_here and entry.given_back_in != lane.episode:
                entry.given_back_in = lane.episode
                self._send_back(entry, burst)

    def _send_back(self, entry: Entry, burst: list[Position]) -> None:
        lane = entry.lane
        if lane is None:
            raise AssertionError("an entry without a lane was sent back")
        lane.paged -= entry.state is State.PAGED
        # What may be another's is not ours to give back: we wait whether it comes.
        if not entry.is_stray:
            burst.append(entry.position)
            # The broker counts every negative acknowledgement.
            entry.count += 1
        self._tally.drop_payload(entry, State.AWAITED)
        if entry is lane.head:
            self.departed.append(lane)
