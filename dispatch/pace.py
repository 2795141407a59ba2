"""How many attempts may start now: what the destination can take, is willing to, and is asked to.

The lanes decide whose turn it is; this decides for how many. Pure: no clock and no destination.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from dispatch.breaker import Breaker, BreakerOptions, BreakerState
from dispatch.outcome import Delivered, Disabled, Forbidden, Malformed, Outcome, Unavailable
from dispatch.partition import Lately
from dispatch.window import Window

#: Overload is looked for in so many outcomes of the last seconds.
OVERLOAD_OUTCOMES: Final = 100
OVERLOAD_WINDOW_S: Final = 2.0
#: This share of their outcomes, of so many users, means that fewer attempts at once are due. A user
#: whose own requests are slow or limited must not slow the others down.
OVERLOAD_SHARE: Final = 0.25
OVERLOAD_USERS: Final = 3
#: A user counts as served for so long, at least, after a delivery.
SERVED_KEPT_S: Final = 600.0
#: What is left of the concurrency then.
CUT: Final = 0.5
#: A rate limit lets so many seconds' worth of attempts start at once after a pause.
BURST_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class PaceOptions:
    """`concurrency` attempts at once and `rate_limit` attempts a second, at most."""

    concurrency: int = 64
    rate_limit: float | None = None
    breaker: BreakerOptions = field(default_factory=BreakerOptions)


class Cost(Enum):
    """What a failure takes from an event's attempts."""

    AN_ATTEMPT = auto()
    PERHAPS = auto()
    """It is taken back if it turns out that the destination is down."""
    NOTHING = auto()


class PaceFigures(NamedTuple):
    """How a worker's pace stands; totals since it started."""

    #: Attempts at once that the destination is given.
    concurrency: int
    #: How often that was halved.
    cuts: int
    breaker: BreakerState
    #: How often the breaker opened.
    opened: int
    probes: int
    is_disabled: bool
    is_paused: bool


class Pace:
    """One worker's pace at one destination.

    The concurrency is halved when the destination is overloaded, and grows again by one for each
    round of deliveries, as a connection's window does.
    """

    def __init__(self, options: PaceOptions) -> None:
        self.options = options
        self.breaker = Breaker(options.breaker)
        self.suspended_because: str | None = None
        self.is_paused = False
        self._limit = float(options.concurrency)
        self._overload = Window(OVERLOAD_OUTCOMES, OVERLOAD_WINDOW_S)
        self._cut_at = -math.inf
        self._served: Lately[Hashable, None] = Lately(SERVED_KEPT_S)
        self._tokens = self._burst
        self._filled_at = -math.inf
        self.cuts = 0

    def reconfigure(self, options: PaceOptions) -> None:
        """Go on by other numbers; what was counted stays, but for a breaker's with new ones."""
        if options.breaker != self.options.breaker:
            self.breaker = Breaker(options.breaker)
        self._limit = min(self._limit, float(options.concurrency))
        self.options = options
        self._tokens = min(self._tokens, self._burst)

    @property
    def concurrency(self) -> int:
        """Attempts at once that the destination is given now."""
        return int(self._limit)

    def room(self, now: float, in_flight: int) -> int:
        """How many attempts may start."""
        if self.is_suspended:
            return 0
        room = min(self.concurrency - in_flight, self.breaker.room(now))
        if self.options.rate_limit is not None:
            self._fill(self.options.rate_limit, now)
            room = min(room, int(self._tokens))
        return max(0, int(room))

    @property
    def is_suspended(self) -> bool:
        """The destination wants nothing more, or a person said so."""
        return self.is_paused or self.suspended_because is not None

    def wake_at(self, now: float) -> float:
        """When there may be more room, if nothing else happens."""
        if self.is_suspended:
            return math.inf
        at = self.breaker.wake_at()
        rate = self.options.rate_limit
        if rate is not None and self._tokens < 1:
            at = min(at, now + (1 - self._tokens) / rate)
        return at

    def started(self, attempts: Sequence[object]) -> None:
        self._tokens -= len(attempts)
        if self.breaker.is_open:
            self.breaker.probe_with(attempts[0])

    def withdrawn(self, attempt: object) -> None:
        """It did not begin after all."""
        self._tokens += 1
        self.breaker.withdrawn(attempt)

    def ended(
        self, attempt: object, user: Hashable, outcome: Outcome, began: float, now: float
    ) -> Cost:
        """Learn from an outcome, and say what it costs the event."""
        match outcome:
            case Delivered():
                self._served.put(user, None)
                self._served.forget_older(now)
                self._grow()
                self._overload.count(now)
                self.breaker.succeeded(attempt, now)
            case Unavailable():
                # What started under the old number says nothing of the new one, nor do probes.
                if began >= self._cut_at and not self.breaker.is_open:
                    self._look_for_overload(user, now, is_overload=outcome.is_overload)
                return self._failed(attempt, user, outcome, now)
            case Malformed() | Forbidden():
                # Nothing was asked, so nothing was learnt.
                self.breaker.withdrawn(attempt)
            case Disabled():
                self.breaker.withdrawn(attempt)
                return Cost.NOTHING
            case _:
                self.breaker.succeeded(attempt, now)
        return Cost.AN_ATTEMPT

    def _failed(self, attempt: object, user: Hashable, outcome: Unavailable, now: float) -> Cost:
        breaker = self.breaker
        if not (outcome.is_down or outcome.may_be_down):
            breaker.succeeded(attempt, now)
            return Cost.AN_ATTEMPT
        # Of a user that was never served it may be the user's own failure, time and again: only
        # one that was, and is not any more, tells of the destination.
        tells = outcome.is_down or breaker.is_open or user in self._served
        if tells:
            breaker.failed(attempt, user, now)
        if breaker.is_open:
            return Cost.NOTHING
        return Cost.PERHAPS if tells or breaker.is_suspicious else Cost.AN_ATTEMPT

    def delivered(self, count: int, now: float) -> None:
        """So many attempts went well, while the breaker was closed."""
        if count:
            self.breaker.succeeded_all(count, now)

    def figures(self, now: float) -> PaceFigures:
        """For metrics."""
        return PaceFigures(
            self.concurrency,
            self.cuts,
            self.breaker.state(now),
            self.breaker.opened,
            self.breaker.probes,
            self.suspended_because is not None,
            self.is_paused,
        )

    def _look_for_overload(self, user: Hashable, now: float, *, is_overload: bool) -> None:
        window = self._overload
        window.count(now, failed_user=user if is_overload else None)
        if is_overload and window.share() >= OVERLOAD_SHARE and window.users() >= OVERLOAD_USERS:
            self._limit = max(1.0, self._limit * CUT)
            self.cuts += 1
            self._cut_at = now
            window.clear()

    def _grow(self) -> None:
        most = self.options.concurrency
        if self._limit < most:
            self._limit = min(float(most), self._limit + 1 / self._limit)

    @property
    def _burst(self) -> float:
        rate = self.options.rate_limit
        return math.inf if rate is None else max(1.0, rate * BURST_S)

    def _fill(self, rate: float, now: float) -> None:
        if self._filled_at > -math.inf:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
