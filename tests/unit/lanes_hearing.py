"""What workers of the lanes' world say and hear of users that are held.

The table is the broker's: what is said stands in it at once, and each worker hears of it in its own
time, unless it catches up with all that stands there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dispatch.clearance import Ask
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.orders import condemn
from dispatch.retry import Reason

#: From the question what was said so far to the answer.
LOOK_S = 0.03


@dataclass(slots=True)
class Table:
    """When, of whom, and whether held from then on."""

    said: list[tuple[float, str, bool]] = field(default_factory=list)
    #: The longest that a worker that does not ask takes to hear of it.
    lag_s: float = 0.02

    def say(self, now: float, user: str, *, is_held: bool) -> None:
        self.said.append((now, user, is_held))


class Hearing:
    """One worker's; a new one has read everything."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._heard = 0
        self.held: set[str] = set()
        self._asks: list[tuple[float, Ask]] = []
        self._hear_until(math.inf)

    def ask(self, asks: list[Ask], now: float) -> None:
        self._asks += [(now, ask) for ask in asks]

    def hear(self, lanes: Lanes, now: float) -> None:
        """What has come in by now; lanes that asked have leave."""
        self._hear_until(now - self._table.lag_s)
        if not self._asks:
            return
        for asked_at, ask in [a for a in self._asks if a[0] + LOOK_S <= now]:
            self._hear_until(asked_at)
            lanes.clear(ask, now)
        self._asks = [a for a in self._asks if a[0] + LOOK_S > now]

    def says_itself(self, user: str, now: float) -> bool:
        """It goes on when it has heard that, and all before it; False if it knew it already."""
        if user in self.held:
            return False
        self._table.say(now, user, is_held=True)
        self._hear_until(now)
        return True

    def _hear_until(self, at: float) -> None:
        said = self._table.said
        while self._heard < len(said) and said[self._heard][0] <= at:
            _, user, is_held = said[self._heard]
            (self.held.add if is_held else self.held.discard)(user)
            self._heard += 1

    def next_at(self) -> float:
        # They ask in the order of time.
        return self._asks[0][0] + LOOK_S if self._asks else math.inf

    def divert(self, lanes: Lanes, entry: Entry, user: str) -> bool:
        """Give it up untried if its user is held."""
        if user in self.held:
            condemn(lanes, entry, Reason.HELD)
        return user in self.held
