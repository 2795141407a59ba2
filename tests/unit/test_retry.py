from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.outcome import Delivered, Malformed, Outcome, Refused, Unavailable
from dispatch.retry import Acknowledge, Backoff, Decision, GiveUp, Reason, Retry, RetryPolicy

DOWN = Unavailable("down")


def make_policy(
    *, max_attempts: int = 3, max_age_s: float = 1000, backoff: Backoff | None = None
) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=max_attempts,
        max_age_s=max_age_s,
        backoff=backoff or Backoff(jitter=0),
        rng=Random(1),
    )


@pytest.mark.parametrize(
    ("outcome", "attempt", "age_s", "decision"),
    [
        (Delivered(200), 1, 0, Acknowledge()),
        (Delivered(200), 9, 9999, Acknowledge()),
        (Refused("no", 400), 1, 0, GiveUp(Reason.REJECTED)),
        (Malformed("no text"), 1, 0, GiveUp(Reason.MALFORMED)),
        (DOWN, 1, 0, Retry(1)),
        (DOWN, 2, 0, Retry(2)),
        # The first counts: after the third of three there is no fourth.
        (DOWN, 3, 0, GiveUp(Reason.MAX_ATTEMPTS)),
        (DOWN, 4, 0, GiveUp(Reason.MAX_ATTEMPTS)),
        (DOWN, 1, 1000, GiveUp(Reason.MAX_AGE)),
        # A destination's own wish lengthens the delay, up to the longest, and never shortens it.
        (Unavailable("busy", 429, 60), 1, 0, Retry(60)),
        (Unavailable("busy", 429, 0), 1, 0, Retry(1)),
        (Unavailable("busy", 429, 86400), 1, 0, Retry(300)),
    ],
)
def test_an_outcome_decides(
    outcome: Outcome, attempt: int, age_s: float, decision: Decision
) -> None:
    assert make_policy().decide(outcome, attempt, age_s) == decision


def test_delays_grow_up_to_the_longest() -> None:
    backoff = Backoff(min_s=1, max_s=10, multiplier=3, jitter=0)
    assert [backoff.delay_s(n, lambda low, _: low) for n in (1, 2, 3, 4)] == [1, 3, 9, 10]


@given(attempt=st.integers(1, 100_000), jitter=st.floats(0, 1), seed=st.integers())
def test_jitter_stays_within_its_share(attempt: int, jitter: float, seed: int) -> None:
    backoff = Backoff(min_s=0.5, max_s=60, multiplier=2, jitter=jitter)
    plain = min(60, 0.5 * 2.0 ** min(attempt - 1, 1000))
    delay = backoff.delay_s(attempt, Random(seed).uniform)
    assert plain * (1 - jitter) * 0.999 <= delay <= plain * (1 + jitter) * 1.001


def test_the_longest_hold_up_of_a_user_is_the_sum_of_the_delays() -> None:
    assert make_policy(max_attempts=4).worst_case_s() == 1 + 2 + 4
    assert make_policy(max_attempts=1).worst_case_s() == 0
    assert make_policy(max_attempts=1_000_000, max_age_s=100).worst_case_s() == 100
