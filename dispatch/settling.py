"""Lanes that wait a moment for an earlier event that may still be on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dispatch.lane import Lane
from dispatch.options import LaneOptions
from dispatch.partition import Partition, Waiting
from keylane.broker import Received

#: Two clocks that should agree differ by this much at most. A timer for so short a time may ring at
#: once, and then for ever.
ROUNDING_S: Final = 1e-6


def waits_for_predecessor(
    partition: Partition, lane: Lane, message: Received, options: LaneOptions
) -> bool:
    """Whether the lane that the message opens waits for what may come before it; then it does."""
    key = lane.key
    is_fresh = partition.connected_s < options.fresh_s
    if message.redelivery_count or is_fresh or key in partition.moving:
        partition.moving.discard(key)
        _settle(partition.settling, lane, partition.calm_s + options.settle_s)
    elif options.meet_s and key not in partition.known:
        _settle(partition.meeting, lane, partition.calm_s + options.meet_s)
    else:
        return False
    return True


def _settle(waiting: Waiting, lane: Lane, until: float) -> None:
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
