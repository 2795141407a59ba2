"""What comes out of the lanes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dispatch.lane import Entry
from keylane.broker import Received


@dataclass(slots=True)
class Commands:
    """What the shell is to do, by partition."""

    acknowledge: dict[int, list[Received]] = field(default_factory=dict)
    negative_acknowledge: dict[int, list[Received]] = field(default_factory=dict)
    dead_letter: list[Entry] = field(default_factory=list)


class Statistics(NamedTuple):
    """How a worker's lanes stand."""

    lanes: int
    ready: int
    held: int
    awaited: int
    in_flight: int
    backoff: int
    dead_lettering: int
    #: Events that arrived after a later one of their user was started. Must stay 0.
    late: int
    #: Tails given back because their key moved.
    given_back: int
    #: Lanes at `max_lane_events`.
    full: int
    is_receiving: bool
