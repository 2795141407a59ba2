"""What a worker answers when it is asked how it stands, and of whom most is unfinished.

Pure. It costs a look at each lane at most, and opens no payload: a worker with a hundred thousand
users goes on delivering while it answers.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from dispatch.lane import Entry, Lane, State
from dispatch.lanes import Lanes
from dispatch.pace import Pace
from dispatch.partition import Partition
from keylane.names import WHOLE
from keylane.place import origin_id, place_of
from keylane.redriven import ORIGIN_MESSAGE_ID, origin_of

#: Lanes that one answer holds at most: it has to fit into a message.
MOST_LANES: Final = 1_000
#: Users at `max_lane_events` that an answer names at most; their number is always told.
FULL_NAMED: Final = 10
#: Error texts are cut there.
ERROR_CHARACTERS: Final = 500

#: One row of an answer.
LaneRow: TypeAlias = dict[str, Any]


@runtime_checkable
class _History(Protocol):
    """What the shell remembers of an event's attempts (dispatch/deadletter.py)."""

    last_status: int | None
    last_error: str


def status_of(lanes: Lanes, pace: Pace, now: float) -> dict[str, Any]:
    """A worker's figures: events by where they are, and why it does not deliver, if so.

    `held` are events whose message is here and whose turn has not come, `ready` the users whose
    turn may come now.
    """
    statistics = lanes.statistics(now)
    figures = pace.figures(now)
    full = lanes.full()
    return {
        "lanes": statistics.lanes,
        "ready": statistics.ready,
        **statistics.events,
        "oldest_head_s": round(statistics.oldest_head_s, 3),
        "full": len(full),
        "full_users": [_user(lane.key) for lane in full[:FULL_NAMED]],
        "breaker": figures.breaker.value,
        "concurrency": figures.concurrency,
        "disabled_because": pace.suspended_because,
        "is_paused": figures.is_paused,
        "is_live_stopped": lanes.partitions.is_live_stopped,
        "is_receiving": statistics.is_receiving,
    }


def lanes_of(lanes: Lanes, now: float, *, top: int, user: str | None = None) -> list[LaneRow]:
    """The lanes of those whose events wait longest; with `user` only that user's.

    First come users whose head has been attempted before, then the others; among them the one
    whose head has been the head for longest, and of equals the one with most events. A lane that
    was given back is left out: its key is another worker's.
    """
    found = _of_user(lanes, user) if user is not None else _stuck(lanes, top)
    chosen = heapq.nsmallest(min(top, MOST_LANES), found, key=_rank)
    return [_row(lane, now) for lane in chosen]


def order_of(row: LaneRow) -> tuple[bool, float, int]:
    """What rows of several workers are sorted by, so that they stand in the order of each."""
    return row["attempt"] == 1, -row["head_s"], -row["events"]


def _rank(lane: Lane) -> tuple[bool, float, int]:
    return lane.head.attempt == 1, lane.head_since, -len(lane)


def _of_user(lanes: Lanes, user: str) -> Iterator[Lane]:
    for partition in lanes.partitions.values():
        lane = partition.lanes.get(user)
        if lane is not None and not lane.is_given_back:
            yield lane


def _stuck(lanes: Lanes, top: int) -> Iterator[Lane]:
    if top < 1:
        return
    for partition in lanes.partitions.values():
        yield from _first_of(partition, top)


def _first_of(partition: Partition, top: int) -> Iterable[Lane]:
    """Those attempted before and the others, of each the `top` whose heads are oldest.

    The partition has its lanes in that order; those that came together are all taken.
    """
    attempted: list[Lane] = []
    fresh: list[Lane] = []
    fresh_until = math.inf
    for lane in partition.lanes.values():
        # Nothing is called for each of a hundred thousand that does not have to be.
        if lane.is_given_back:
            continue
        head = lane.head
        if head.attempts or head.attempts_elsewhere:
            if len(attempted) >= top and lane.head_since > attempted[-1].head_since:
                break
            attempted.append(lane)
        elif lane.head_since <= fresh_until:
            fresh.append(lane)
            if len(fresh) == top:
                fresh_until = lane.head_since
    return attempted + fresh


def _row(lane: Lane, now: float) -> LaneRow:
    head = lane.head
    history = head.context if isinstance(head.context, _History) else None
    in_backoff = head.state is State.BACKOFF and not head.is_condemned
    return {
        "user": _user(lane.key),
        "partition": lane.partition,
        "events": len(lane),
        "state": _state(lane),
        "attempt": head.attempt,
        "id": _id(lane, head),
        **_positions(lane, head),
        "head_s": round(max(0.0, now - lane.head_since), 3),
        "next_attempt_in_s": round(max(0.0, head.due - now), 3) if in_backoff else None,
        "last_status": history.last_status if history else None,
        "last_error": history.last_error[:ERROR_CHARACTERS] if history else "",
    }


def _state(lane: Lane) -> str:
    """What the head does; `held` heads are told apart by what they wait for."""
    head = lane.head
    if head.is_condemned and head.state is State.BACKOFF:
        return "dead_lettering"
    if head.state is not State.HELD:
        return head.state.name.lower()
    if lane.is_settling:
        return "settling"
    return "ready" if lane.is_cleared else "waiting"


def _user(key: object) -> str:
    # An event without a user is a lane of its own, by its position.
    return key if isinstance(key, str) else ""


def _positions(lane: Lane, entry: Entry) -> dict[str, str]:
    """`place` is where the message lies; `position` where the event lay first, as receivers see it.

    They differ for an event that is delivered once more, and `position` is then known only while
    its message is here.
    """
    place = place_of(lane.partition, entry.position)
    is_once_more = lane.partition == WHOLE and entry.message is not None
    origin = origin_of(_properties(entry)) if is_once_more else None
    return {"position": place_of(*origin) if origin else place, "place": place}


def _properties(entry: Entry) -> dict[str, str]:
    try:
        return entry.message.properties() if entry.message else {}
    except UnicodeDecodeError:
        return {}


def _id(lane: Lane, entry: Entry) -> str | None:
    """None while the message is at the broker."""
    if entry.message is None:
        return None
    properties = _properties(entry)
    known = properties.get("ce_id") or properties.get(ORIGIN_MESSAGE_ID)
    return known or origin_id(lane.partition, entry.position)
