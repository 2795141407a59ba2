"""Lanes that wait a moment for an earlier event that may still be on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dispatch.lane import Lane
from dispatch.partition import Partition, Waiting

#: Two clocks that should agree differ by this much at most. A timer for so short a time may ring at
#: once, and then for ever.
ROUNDING_S: Final = 1e-6


def settle(waiting: Waiting, lane: Lane, until: float) -> None:
    """Let it wait in this queue until then, on the partition's clock `calm_s`."""
    lane.is_settling = True
    waiting.append((until, lane))


def settled(partition: Partition) -> Iterator[Lane]:
    """Those of the partition that need not wait any longer; those that are gone are left out."""
    for waiting in (partition.settling, partition.meeting):
        while waiting and waiting[0][0] - partition.calm_s <= ROUNDING_S:
            _, lane = waiting.popleft()
            if partition.lanes.get(lane.key) is lane:
                lane.is_settling = False
                yield lane
