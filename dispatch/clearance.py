"""Lanes whose turn needs leave: what is known of their user may be out of date here.

Where users can be held (docs/delivery.md), another worker may have said so of one whose events
come here now. So a lane asks before its first turn, and again when its head may have been finished
elsewhere. The shell looks at what has been said since, and gives leave; it can also take it back.
"""

from __future__ import annotations

from typing import NamedTuple

from dispatch.lane import Lane


class Ask(NamedTuple):
    """A lane that asks. An answer to an earlier ask than its last one is void."""

    lane: Lane
    ticket: int


def asked(lane: Lane) -> Ask:
    """Let it ask; what it asked before is void."""
    lane.is_asking = True
    lane.ticket += 1
    return Ask(lane, lane.ticket)


def is_valid(answered: Ask) -> bool:
    lane = answered.lane
    return lane.is_asking and lane.ticket == answered.ticket


def clear(lane: Lane) -> None:
    lane.is_cleared = True
    lane.is_asking = False


class Doubt:
    """Makes lanes ask again, where that is needed at all."""

    def __init__(self, *, is_needed: bool) -> None:
        self._is_needed = is_needed

    def cast(self, lane: Lane) -> None:
        """What is known of its user may be out of date."""
        if self._is_needed:
            doubt(lane)


def doubt(lane: Lane) -> None:
    """It has to ask again."""
    lane.is_cleared = lane.is_asking = False
