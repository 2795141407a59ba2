"""Whether a destination is down as a whole, so that nobody's attempts are spent on it.

Closed, everything is attempted. Open, nothing is. Half open, one attempt goes to see whether it is
back: of another user each time, since one user's event may fail for a reason of its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from dispatch.window import Window


@dataclass(frozen=True, slots=True)
class BreakerOptions:
    """`failure_share` of the last `outcomes` attempts, of at least `users` users, open it.

    What is older than `window_s` seconds does not count. The share is high on purpose: as long as
    some users are served, the others' backoff keeps their failures to themselves, and opening
    would delay those who are. The first probe comes after `probe_min_s` seconds, each next one
    after twice as long, up to `probe_max_s`.
    """

    enabled: bool = True
    failure_share: float = 0.9
    users: int = 10
    outcomes: int = 50
    window_s: float = 10.0
    probe_min_s: float = 1.0
    probe_max_s: float = 15.0


class BreakerState(StrEnum):
    """For logs and metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Pure: outcomes and the time in, whether attempts may start out."""

    def __init__(self, options: BreakerOptions) -> None:
        self.options = options
        self._window = Window(options.outcomes, options.window_s)
        self._delay_s = options.probe_min_s
        self._probe_at = math.inf
        self._probe: object = None
        self.opened = 0
        self.probes = 0

    @property
    def is_open(self) -> bool:
        """Open or half open."""
        return self._probe_at < math.inf

    def state(self, now: float) -> BreakerState:
        if not self.is_open:
            return BreakerState.CLOSED
        if self._probe is not None or now >= self._probe_at:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    def room(self, now: float) -> float:
        """How many attempts may start: any number, one, or none."""
        if not self.is_open:
            return math.inf
        return 1 if self._probe is None and now >= self._probe_at else 0

    def wake_at(self) -> float:
        """When the next probe may start; never, while one runs or nothing is wrong."""
        return math.inf if self._probe is not None else self._probe_at

    def probe_with(self, attempt: object) -> None:
        """The attempt that there was room for while open has started."""
        self._probe = attempt
        self.probes += 1

    def withdrawn(self, attempt: object) -> None:
        """It did not begin after all: another one may."""
        if attempt is self._probe:
            self._probe = None

    def succeeded(self, attempt: object, now: float) -> None:
        """There was an answer, whatever it said of the event."""
        if not self.is_open:
            self._window.count(now)
        elif attempt is self._probe:
            self._close()

    def succeeded_all(self, count: int, now: float) -> None:
        """The same of many, none of which is a probe."""
        for _ in range(min(count, self.options.outcomes)):
            self._window.count(now)

    def failed(self, attempt: object, user: Hashable, now: float) -> None:
        """It would have failed for anybody."""
        if not self.options.enabled:
            return
        if not self.is_open:
            self._window.count(now, failed_user=user)
            if self._is_down():
                self.opened += 1
                self._open(now)
        elif attempt is self._probe:
            self._delay_s = min(self._delay_s * 2, self.options.probe_max_s)
            self._open(now)

    def _is_down(self) -> bool:
        window = self._window
        return window.users() >= self.options.users and window.share() >= self.options.failure_share

    def _open(self, now: float) -> None:
        self._probe = None
        self._probe_at = now + self._delay_s

    def _close(self) -> None:
        self._probe = None
        self._probe_at = math.inf
        self._delay_s = self.options.probe_min_s
        self._window.clear()
