"""Whose turn it is: lanes whose head can be attempted, one attempt each, round robin."""

from __future__ import annotations

from collections import deque

from dispatch.lane import Entry, Lane, State
from dispatch.partition import Partition
from dispatch.tally import Tally


class Turns:
    """A round of lanes. A lane stands in it once, and again only when its next head is ready."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._ready: deque[Lane] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    def join(self, lane: Lane) -> None:
        """Queue up at the end, unless it waits for a predecessor or stands here already."""
        if not lane.is_queued and not lane.is_settling:
            lane.is_queued = True
            self._ready.append(lane)

    def release(self, partition: Partition) -> None:
        """Those whose turn came while nothing could start have it now."""
        self._ready.extend(partition.withheld)
        partition.withheld.clear()

    def take(self, partitions: dict[int, Partition], limit: int) -> list[Entry]:
        """The heads of the next lanes; they are IN_FLIGHT from now on."""
        started: list[Entry] = []
        ready = self._ready
        while ready and len(started) < limit:
            lane = ready.popleft()
            if not partitions[lane.partition].is_trusted:
                partitions[lane.partition].withheld.append(lane)
                continue
            lane.is_queued = False
            # It may have been forgotten, or got an earlier head, since it was queued.
            if len(lane) and not lane.is_settling and lane.head.state is State.HELD:
                self._tally.move(lane.head, State.IN_FLIGHT)
                started.append(lane.head)
        return started
