from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.problems import kind_of
from ingest.rate import OverLimit, RateLimits, Standing, TokenBucket, headers
from ingest.refusals import RateLimited

NOW = 1_000_000.0

rates = st.floats(0.01, 100_000)
bursts = st.integers(1, 5_000)
#: Requests: seconds since the one before, and tokens.
requests = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 30)), st.integers(1, 8_000)), max_size=60
)


def used(rate: float, burst: int, sent: list[tuple[float, int]]) -> tuple[RateLimits, float]:
    """Limits that met these requests, and the time of the last."""
    limits, now = RateLimits(rate, burst), NOW
    for pause_s, tokens in sent:
        now += pause_s
        refused_for_s(limits, tokens, now)
    return limits, now


def refused_for_s(limits: RateLimits, tokens: int, now: float, paid: int = 0) -> float:
    try:
        limits.take("key", tokens, now, paid)
    except RateLimited as refusal:
        return refusal.retry_after_s or math.nan  # no time to wait is no refusal
    return 0.0


def test_a_full_bucket_holds_the_burst_and_then_gains_its_rate() -> None:
    bucket = TokenBucket(10, 5)

    assert bucket.level(NOW) == 5
    assert bucket.take(5, NOW) == 0
    assert bucket.take(1, NOW) == pytest.approx(0.1)
    assert bucket.level(NOW + 0.2) == pytest.approx(2)
    assert bucket.take(3, NOW + 0.2) == pytest.approx(0.1)
    assert bucket.take(2, NOW + 0.2) == 0
    assert bucket.level(NOW + 1000) == 5


def test_what_is_refused_takes_nothing() -> None:
    bucket = TokenBucket(1, 10)
    bucket.take(6, NOW)
    bucket.take(5, NOW)

    assert bucket.level(NOW) == pytest.approx(4)
    assert bucket.take(4, NOW) == 0


def test_more_than_the_burst_passes_a_full_bucket_and_is_owed() -> None:
    bucket = TokenBucket(10, 5)

    assert bucket.take(25, NOW) == 0
    assert bucket.level(NOW) == pytest.approx(-20)
    assert bucket.take(1, NOW) == pytest.approx(2.1)
    assert bucket.take(25, NOW + 2.4) == pytest.approx(0.1)
    assert bucket.take(25, NOW + 2.5) == 0


@given(rates, bursts, requests)
def test_in_no_window_more_passes_than_burst_and_rate_and_one_oversized_request(
    rate: float, burst: int, sent: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(rate, burst)
    now = NOW
    passed: list[tuple[float, int]] = []
    for pause_s, tokens in sent:
        now += pause_s
        if not bucket.take(tokens, now):
            passed.append((now, tokens))

    for first, last in itertools.combinations_with_replacement(range(len(passed)), 2):
        window = passed[first : last + 1]
        window_s = window[-1][0] - window[0][0]
        oversized = max(0, max(tokens for _, tokens in window) - burst)
        bound = burst + rate * window_s + oversized
        slack = 3e-6 * rate + 1e-6 * bound
        assert sum(tokens for _, tokens in window) <= bound + slack


@given(rates, bursts, requests, st.integers(1, 8_000))
def test_a_refused_request_passes_after_the_time_it_was_told(
    rate: float, burst: int, sent: list[tuple[float, int]], tokens: int
) -> None:
    limits, now = used(rate, burst, sent)

    if wait_s := refused_for_s(limits, tokens, now):
        assert refused_for_s(limits, tokens, now + wait_s) == 0


@given(rates, bursts, requests, st.integers(1, 8_000), st.integers(1, 9))
def test_a_request_refused_at_its_second_part_passes_in_both_after_the_time_it_was_told(
    rate: float, burst: int, sent: list[tuple[float, int]], tokens: int, first: int
) -> None:
    limits, now = used(rate, burst, sent)
    if wait_s := refused_for_s(limits, first, now):
        now += wait_s
        assert refused_for_s(limits, first, now) == 0

    if wait_s := refused_for_s(limits, tokens, now, paid=first):
        now += wait_s
        assert refused_for_s(limits, first, now) == 0
        assert refused_for_s(limits, tokens, now, paid=first) == 0


def test_less_than_the_time_told_is_not_enough() -> None:
    limits = RateLimits(10, 5)
    limits.take("key", 5, NOW)
    with pytest.raises(RateLimited) as refused:
        limits.take("key", 3, NOW)

    with pytest.raises(RateLimited):
        limits.take("key", 3, NOW + refused.value.retry_after_s - 0.01)


def test_a_request_that_pays_in_two_parts_passes_as_if_it_paid_at_once() -> None:
    limits = RateLimits(10, 5)
    limits.take("key", 1, NOW)
    limits.take("key", 24, NOW, paid=1)

    with pytest.raises(RateLimited) as refused:
        limits.take("key", 1, NOW)
    assert refused.value.retry_after_s == pytest.approx(2.1)


def test_a_second_part_that_is_refused_waits_for_the_whole() -> None:
    limits = RateLimits(10, 5)
    limits.take("key", 3, NOW)
    limits.take("key", 1, NOW)
    with pytest.raises(RateLimited) as refused:
        limits.take("key", 3, NOW, paid=1)

    assert refused.value.retry_after_s == pytest.approx(0.3)


def test_each_caller_has_a_bucket_of_its_own() -> None:
    limits = RateLimits(1, 2)
    limits.take("a", 2, NOW)
    with pytest.raises(RateLimited):
        limits.take("a", 1, NOW)

    assert limits.take("b", 1, NOW) == Standing(2, 1, 1.0, 2)


def test_a_rate_of_zero_limits_nobody_and_keeps_nothing() -> None:
    limits = RateLimits(0, 1)

    assert not limits.is_on
    for _ in range(10):
        assert headers(limits.take("key", 10_000, NOW)) == []
    assert len(limits) == 0


def test_any_other_rate_is_on() -> None:
    assert RateLimits(0.5, 1).is_on


def test_the_slowest_rate_has_times_that_can_be_told() -> None:
    limits = RateLimits(5e-324, 1)
    told = headers(limits.take("key", 1, NOW))
    with pytest.raises(RateLimited) as refused:
        limits.take("key", 1, NOW)

    assert math.isfinite(refused.value.retry_after_s)
    assert all(b"inf" not in value for _, value in told)


def test_full_buckets_are_dropped() -> None:
    limits = RateLimits(10, 5)
    for number in range(100):
        limits.take(f"old-{number}", 1, NOW)
    assert len(limits) == 100

    for number in range(100):
        limits.take(f"new-{number}", 1, NOW + 60)
    assert len(limits) == 100
    assert limits.take("old-0", 5, NOW + 60).remaining == 0


def test_of_too_many_callers_the_longest_idle_is_forgotten() -> None:
    limits = RateLimits(1, 2, max_callers=3)
    for caller in ("a", "b", "c"):
        limits.take(caller, 2, NOW)
    with pytest.raises(RateLimited):
        limits.take("a", 1, NOW)  # not idle: it was refused, but it came
    limits.take("d", 1, NOW)

    assert len(limits) == 3
    for caller in ("a", "c"):
        with pytest.raises(RateLimited):
            limits.take(caller, 1, NOW)
    assert limits.take("b", 2, NOW).remaining == 0


@pytest.mark.parametrize(
    ("rate", "burst", "policy"),
    [
        (100, 100, b'"default";q=100;w=1'),
        (100, 1000, b'"default";q=1000;w=10'),
        (0.5, 10, b'"default";q=10;w=20'),
        (1000, 10, b'"default";q=1000;w=1'),
    ],
)
def test_the_policy_tells_burst_and_rate(rate: float, burst: int, policy: bytes) -> None:
    standing = RateLimits(rate, burst).take("key", 1, NOW)

    assert dict(headers(standing))[b"ratelimit-policy"] == policy


def test_the_headers_tell_what_is_left_and_when_it_is_all_back() -> None:
    standing = RateLimits(2, 10).take("key", 5, NOW)

    assert standing == Standing(10, 5, 2.5, 5)
    assert headers(standing) == [
        (b"ratelimit-policy", b'"default";q=10;w=5'),
        (b"ratelimit", b'"default";r=5;t=3'),
    ]


def test_a_refusal_tells_the_time_of_its_retry() -> None:
    limits = RateLimits(2, 10)
    limits.take("key", 8, NOW)
    with pytest.raises(OverLimit) as refused:
        limits.take("key", 9, NOW)

    assert refused.value.retry_after_s == pytest.approx(3.5)
    assert dict(headers(refused.value.standing))[b"ratelimit"] == b'"default";r=2;t=4'
    assert kind_of(refused.value).name == "rate-limited"


def test_what_is_owed_is_told_as_nothing_left() -> None:
    standing = RateLimits(10, 5).take("key", 25, NOW)

    assert dict(headers(standing))[b"ratelimit"] == b'"default";r=0;t=3'
