"""When a destination counts as down, and when as back."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from dispatch.breaker import Breaker, BreakerOptions, BreakerState
from dispatch.window import Window

OPTIONS = BreakerOptions(
    failure_share=0.9, users=3, window_s=10, after_s=0, probe_min_s=1, probe_max_s=5
)


def fail(breaker: Breaker, *users: str, now: float = 0.0) -> None:
    for user in users:
        breaker.failed(object(), user, now)


def down(now: float = 0.0) -> Breaker:
    breaker = Breaker(OPTIONS)
    fail(breaker, "Ada", "Bob", "Cy", now=now)
    assert breaker.is_open
    return breaker


def test_it_opens_when_attempts_of_several_users_fail() -> None:
    breaker = Breaker(OPTIONS)
    fail(breaker, "Ada", "Bob")
    assert breaker.room(0) == math.inf
    fail(breaker, "Cy")
    assert breaker.room(0) == 0
    assert breaker.state(0) is BreakerState.OPEN
    assert breaker.opened == 1


def test_one_user_that_fails_often_does_not_open_it() -> None:
    breaker = Breaker(OPTIONS)
    fail(breaker, *["Ada"] * 100)
    assert not breaker.is_open


def test_it_stays_closed_while_others_are_served() -> None:
    breaker = Breaker(OPTIONS)
    for n in range(40):
        breaker.succeeded(object(), n / 100)
        fail(breaker, *(f"user-{n}-{m}" for m in range(7)), now=n / 100)
    assert not breaker.is_open


def test_failures_of_long_ago_do_not_count() -> None:
    breaker = Breaker(OPTIONS)
    fail(breaker, "Ada", "Bob", now=0)
    fail(breaker, "Cy", now=11)
    assert not breaker.is_open


def test_a_probe_starts_after_a_while_and_one_at_a_time() -> None:
    breaker = down()
    assert breaker.room(0.9) == 0
    assert breaker.wake_at() == 1
    assert breaker.room(1) == 1
    assert breaker.state(1) is BreakerState.HALF_OPEN
    breaker.probe_with("probe")
    assert breaker.room(1) == 0
    assert breaker.wake_at() == math.inf


def test_probes_that_fail_come_at_growing_intervals() -> None:
    breaker = down()
    at = []
    for _ in range(5):
        at.append(breaker.wake_at())
        breaker.probe_with("probe")
        breaker.failed("probe", "Ada", at[-1])
    assert at == [1, 3, 7, 12, 17]


def test_a_probe_that_is_answered_closes_it() -> None:
    breaker = down()
    breaker.probe_with("probe")
    breaker.succeeded("probe", 1)
    assert breaker.room(1) == math.inf
    assert breaker.state(1) is BreakerState.CLOSED


def test_what_failed_before_it_closed_is_forgotten() -> None:
    breaker = down()
    breaker.probe_with("probe")
    breaker.succeeded("probe", 1)
    fail(breaker, "Ada", "Bob", now=1)
    assert not breaker.is_open


def test_attempts_from_before_change_nothing_while_it_is_open() -> None:
    breaker = down()
    breaker.succeeded("an older one", 0.5)
    fail(breaker, "Dora", "Eve", now=0.5)
    assert breaker.is_open
    assert breaker.wake_at() == 1


def test_a_probe_that_did_not_begin_makes_room_for_another() -> None:
    breaker = down()
    breaker.probe_with("probe")
    breaker.withdrawn("another")
    assert breaker.room(1) == 0
    breaker.withdrawn("probe")
    assert breaker.room(1) == 1


def test_disabled_it_never_opens() -> None:
    breaker = Breaker(BreakerOptions(enabled=False, users=1))
    fail(breaker, *(f"user-{n}" for n in range(100)))
    assert breaker.room(0) == math.inf


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from([None, "Ada", "Bob", "Cy"]))))
def test_a_window_counts_what_a_list_of_all_outcomes_says(
    steps: list[tuple[float, str | None]],
) -> None:
    window, outcomes, now = Window(8, 10), [], 0.0
    for passes, failed_user in steps:
        now += passes
        window.count(now, failed_user=failed_user)
        outcomes.append((now, failed_user))
        if failed_user is None:
            continue
        inside = [user for at, user in outcomes[-8:] if at >= now - 10]
        failed = [user for user in inside if user]
        assert window.failed == len(failed)
        assert window.users() == len(set(failed))
        assert window.share() == len(failed) / len(inside)


def test_an_outage_shows_at_once_however_much_went_well_before() -> None:
    breaker = Breaker(OPTIONS)
    for n in range(10_000):
        breaker.succeeded(object(), n / 1_000)
    fail(breaker, *(f"user-{n}" for n in range(45)), now=10)
    assert breaker.is_open
