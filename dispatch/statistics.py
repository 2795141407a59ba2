"""How a worker's lanes stand, for people and their monitoring."""

from __future__ import annotations

from typing import NamedTuple

from dispatch.absences import Absences
from dispatch.lane import State
from dispatch.partition import Partitions
from dispatch.redelivery import Redelivery
from dispatch.tally import Tally
from dispatch.turns import Turns


class Statistics(NamedTuple):
    """How a worker's lanes stand."""

    lanes: int
    #: Lanes whose turn may come.
    ready: int
    #: Lanes whose head is at the broker.
    away: int
    #: Unfinished events by state, in lower case.
    events: dict[str, int]
    #: Attempts that run for slow users.
    slow_running: int
    #: Events that arrived after a later one of their user was started. Must stay 0.
    late: int
    #: Lanes given back because their key moved.
    given_back: int
    #: Payloads fetched again from the broker.
    fetched: int
    #: Bytes of payload in lanes, apart from those of heads.
    payload_bytes: int
    #: Seconds for which the head that waits longest has been the head.
    oldest_head_s: float
    #: Seconds for which the receive gate was closed, in all.
    gate_closed_s: float
    #: Lanes at `max_lane_events`.
    full: int
    is_receiving: bool


def statistics_of(
    partitions: Partitions,
    tally: Tally,
    turns: Turns,
    absences: Absences,
    redelivery: Redelivery,
    late: int,
    now: float,
) -> Statistics:
    """Put together what each part of the lanes has counted."""
    return Statistics(
        lanes=sum(len(p.lanes) for p in partitions.values()),
        ready=len(turns),
        away=tally.away,
        events={state.name.lower(): tally.counts[state] for state in State},
        slow_running=tally.slow_running,
        late=late,
        given_back=absences.given_back,
        fetched=redelivery.fetched,
        payload_bytes=tally.payload_bytes,
        oldest_head_s=partitions.oldest_head_s(now),
        gate_closed_s=tally.gate_closed_s(now),
        full=len(tally.full),
        is_receiving=tally.is_receiving,
    )
