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
    """`failure_share` of the last `outcomes` attempts, of `users` users, for `after_s` s open it.

    What is older than `window_s` seconds does not count. The share is high on purpose: as long as
    some users are served, the others' backoff keeps their failures to themselves, and opening
    would delay those who are. And it has to last: many users may fail in the same moment for
    reasons of their own, and their next attempts go well. The first probe comes after
    `probe_min_s` seconds, each next one after twice as long, up to `probe_max_s`.
    """

    enabled: bool = True
    failure_share: float = 0.9
    users: int = 20
    outcomes: int = 50
    window_s: float = 10.0
    after_s: float = 2.0
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
        self._suspected_since: float | None = None
        self.opened = 0
        self.probes = 0

    @property
    def is_open(self) -> bool:
        """Open or half open."""
        return self._probe_at < math.inf

    @property
    def is_suspicious(self) -> bool:
        """Closed, but it will open if this goes on."""
        return self._suspected_since is not None

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
            self.succeeded_all(1, now)
        elif attempt is self._probe:
            self._close()

    def succeeded_all(self, count: int, now: float) -> None:
        """The same of many, none of which is a probe."""
        for _ in range(min(count, self.options.outcomes)):
            self._window.count(now)
        if self.is_suspicious and self._window.share() < self.options.failure_share:
            self._suspected_since = None

    def failed(self, attempt: object, user: Hashable, now: float) -> None:
        """It would have failed for anybody."""
        if not self.options.enabled:
            return
        if not self.is_open:
            self._window.count(now, failed_user=user)
            self._suspect(now)
        elif attempt is self._probe:
            self._delay_s = min(self._delay_s * 2, self.options.probe_max_s)
            self._open(now)

    def _suspect(self, now: float) -> None:
        window, options = self._window, self.options
        if window.users() < options.users or window.share() < options.failure_share:
            self._suspected_since = None
        elif self._suspected_since is None:
            self._suspected_since = now
        if self._suspected_since is not None and now - self._suspected_since >= options.after_s:
            self.opened += 1
            self._open(now)

    def _open(self, now: float) -> None:
        self._probe = self._suspected_since = None
        self._probe_at = now + self._delay_s

    def _close(self) -> None:
        self._probe = None
        self._probe_at = math.inf
        self._delay_s = self.options.probe_min_s
        self._window.clear()
