"""After which dead letters a user is held: what comes later follows, untried, until a redrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dispatch.retry import Reason


@dataclass(frozen=True, slots=True)
class Holding:
    """`dead_letter`: after any that the destination or the policy brought about.

    `full_lane`: a user who has `max_lane_events` unfinished ones is held then.
    """

    dead_letter: bool = False
    full_lane: bool = False

    @property
    def is_on(self) -> bool:
        return self.dead_letter or self.full_lane

    def holds(self, reason: str) -> bool:
        """A person who gives up an event wants the next one to be tried."""
        if reason == Reason.LANE_FULL:
            return self.full_lane
        return self.dead_letter and reason not in (Reason.OPERATOR, Reason.HELD)


NO_HOLDING: Final = Holding()
