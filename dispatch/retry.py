"""What is done about an outcome: values in, a value out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final, TypeAlias, assert_never

from tenacity import RetryCallState, Retrying, wait_exponential

from dispatch.outcome import (
    Delivered,
    Disabled,
    Failure,
    Forbidden,
    Malformed,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)

#: Seconds between two attempts at least, while it is not clear whether a destination is down.
LEAST_WHILE_UNCLEAR_S: Final = 0.5


class Reason(StrEnum):
    """Why an event was given up; written on its dead letter as `keylane-reason`."""

    MAX_ATTEMPTS = "max-attempts"
    MAX_AGE = "max-age"
    REJECTED = "rejected"
    MALFORMED = "malformed"
    FORBIDDEN = "forbidden"
    LANE_FULL = "lane-full"
    HELD = "held"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Done; the broker may forget it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt, `delay_s` seconds from now."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To the dead-letter topic."""

    reason: Reason


Decision: TypeAlias = Acknowledge | Retry | GiveUp

ACKNOWLEDGE = Acknowledge()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that grow: `min_s`, then `multiplier` times longer each, never over `max_s`.

    `jitter` is a share of the delay: 0.2 spreads it evenly over 80 % to 120 %.
    """

    min_s: float = 1.0
    max_s: float = 300.0
    multiplier: float = 2.0
    jitter: float = 0.2

    def delay_s(self, attempt: int, uniform: Callable[[float, float], float]) -> float:
        """How long to wait after the given attempt (the first is 1) failed."""
        growth = wait_exponential(multiplier=self.min_s, exp_base=self.multiplier, max=self.max_s)
        state = RetryCallState(_NO_RETRYING, None, (), {})
        state.attempt_number = attempt
        return growth(state) * uniform(1 - self.jitter, 1 + self.jitter)


_NO_RETRYING = Retrying()


class RetryPolicy:
    """Decides by outcome, attempt and age; knows no destination and no clock.

    `max_attempts` counts the first. `max_age_s` is measured from when the event was accepted; it
    bounds attempts whose count the broker has lost (it restarts when a topic is unloaded).
    """

    def __init__(
        self, *, max_attempts: int, max_age_s: float, backoff: Backoff, rng: Random
    ) -> None:
        self.max_attempts = max_attempts
        self.max_age_s = max_age_s
        self.backoff = backoff
        self._rng = rng

    def decide(self, outcome: Outcome, attempt: int, age_s: float) -> Decision:
        """What to do after `attempt` (the first is 1) of an event accepted `age_s` ago."""
        match outcome:
            case Delivered():
                return ACKNOWLEDGE
            case Refused():
                return GiveUp(Reason.REJECTED)
            case Malformed():
                return GiveUp(Reason.MALFORMED)
            case Forbidden():
                return GiveUp(Reason.FORBIDDEN)
            case Disabled() | Withdrawn():
                # It costs no attempt: when attempts start again it goes on from here.
                return Retry(0.0)
            case Unavailable(retry_after_s=wish):
                return self._after_failure(attempt, age_s, wish)
            case _:
                assert_never(outcome)

    def _after_failure(self, attempt: int, age_s: float, wish_s: float | None) -> Decision:
        if attempt >= self.max_attempts:
            return GiveUp(Reason.MAX_ATTEMPTS)
        if age_s >= self.max_age_s:
            return GiveUp(Reason.MAX_AGE)
        return Retry(self._delay_s(attempt, wish_s))

    def _delay_s(self, attempt: int, wish_s: float | None) -> float:
        delay_s = self.backoff.delay_s(attempt, self._rng.uniform)
        if wish_s is None:
            return delay_s
        # Never sooner than asked, never later than the longest backoff.
        return max(delay_s, min(wish_s, self.backoff.max_s))

    def put_off(self, outcome: Failure, attempt: int, age_s: float) -> Decision:
        """The same for a failure that may be taken back: never the last one, and not too many."""
        wish_s = outcome.retry_after_s if isinstance(outcome, Unavailable) else None
        delay_s = max(self._delay_s(attempt, wish_s), LEAST_WHILE_UNCLEAR_S)
        return self.spare(age_s) or Retry(delay_s)

    def spare(self, age_s: float) -> GiveUp | None:
        """What to do about an attempt that failed for what would have failed anybody's.

        None is: nothing but to try again when the destination is back. However long that takes,
        an event is not kept for longer than `max_age_s`.
        """
        return GiveUp(Reason.MAX_AGE) if age_s >= self.max_age_s else None

    def worst_case_s(self) -> float:
        """The longest that one event can hold its user up, attempts' own time not counted."""
        longest = 0.0
        for attempt in range(1, self.max_attempts):
            longest += self.backoff.delay_s(attempt, lambda _, high: high)
            if longest >= self.max_age_s:
                return self.max_age_s
        return longest
