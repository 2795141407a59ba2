"""How many attempts may start."""

from __future__ import annotations

import math

from dispatch.breaker import BreakerOptions
from dispatch.outcome import Delivered, Disabled, Forbidden, Malformed, Refused, Unavailable
from dispatch.pace import Cost, Pace, PaceOptions

DOWN = Unavailable("answered 503", 503, is_down=True)
ERROR = Unavailable("answered 500", 500, may_be_down=True)
TOO_MANY = Unavailable("answered 429", 429, is_overload=True)
DELIVERED = Delivered(200)


def pace_of(concurrency: int = 8, rate_limit: float | None = None, users: int = 3) -> Pace:
    breaker = BreakerOptions(users=users, window_s=10, after_s=0)
    return Pace(PaceOptions(concurrency, rate_limit, breaker))


def overload(pace: Pace, now: float, began: float, users: int = 3) -> None:
    for n in range(users):
        pace.ended(object(), f"user-{n}", TOO_MANY, began, now)


def test_there_is_room_for_what_the_concurrency_leaves() -> None:
    pace = pace_of(8)
    assert pace.room(0, in_flight=0) == 8
    assert pace.room(0, in_flight=6) == 2
    assert pace.room(0, in_flight=9) == 0


def test_overload_of_several_users_halves_the_concurrency() -> None:
    pace = pace_of(8)
    overload(pace, now=1, began=0)
    assert pace.concurrency == 4
    assert pace.cuts == 1


def test_one_user_that_is_slow_or_limited_leaves_the_others_their_room() -> None:
    pace = pace_of(8)
    for _ in range(50):
        pace.ended(object(), "Ada", TOO_MANY, 0, 1)
    assert pace.concurrency == 8


def test_attempts_that_started_before_a_cut_do_not_cut_again() -> None:
    pace = pace_of(8)
    overload(pace, now=1, began=0)
    overload(pace, now=1.1, began=0.5, users=8)
    assert pace.concurrency == 4
    overload(pace, now=2, began=1.5)
    assert pace.concurrency == 2


def test_at_least_one_attempt_runs_however_often_it_was_cut() -> None:
    pace = pace_of(8)
    for n in range(10):
        overload(pace, now=n + 0.5, began=n)
    assert pace.concurrency == 1
    assert pace.room(100, in_flight=0) == 1


def test_deliveries_bring_the_concurrency_back() -> None:
    pace = pace_of(8)
    overload(pace, now=1, began=0)
    for _ in range(5):
        pace.ended(object(), "Ada", DELIVERED, 1, 2)
    assert pace.concurrency == 5
    for _ in range(100):
        pace.ended(object(), "Ada", DELIVERED, 1, 2)
    assert pace.concurrency == 8


def test_a_rate_is_kept_over_any_second() -> None:
    pace = pace_of(1000, rate_limit=50)
    started, now = [], 0.0
    while now < 4:
        room = pace.room(now, in_flight=0)
        if room:
            pace.started([object()] * room)
            started += [now] * room
        now += 0.01
    for start in range(3):
        assert 48 <= sum(start <= at < start + 1 for at in started) <= 56


def test_it_says_when_the_rate_has_room_again() -> None:
    pace = pace_of(1000, rate_limit=2)
    pace.started([object()] * pace.room(0, in_flight=0))
    assert pace.room(0, in_flight=0) == 0
    assert pace.wake_at(0) == 0.5
    assert pace.room(0.5, in_flight=0) == 1


def test_an_attempt_that_did_not_begin_gives_its_place_back() -> None:
    pace = pace_of(1000, rate_limit=1)
    attempt = object()
    pace.started([attempt])
    assert pace.room(0, in_flight=0) == 0
    pace.withdrawn(attempt)
    assert pace.room(0, in_flight=0) == 1


def test_failures_of_the_whole_destination_cost_no_attempt_once_it_is_down() -> None:
    pace = pace_of()
    costs = [pace.ended(object(), user, DOWN, 0, 0) for user in "abcd"]
    assert costs == [Cost.PERHAPS, Cost.PERHAPS, Cost.NOTHING, Cost.NOTHING]
    assert pace.room(0.5, in_flight=0) == 0


def test_a_probe_costs_no_attempt_either_and_its_answer_opens_the_way() -> None:
    pace = pace_of()
    for user in "abc":
        pace.ended(object(), user, DOWN, 0, 0)
    assert pace.room(1, in_flight=0) == 1
    pace.started(["probe"])
    assert pace.room(1, in_flight=1) == 0
    assert pace.ended("probe", "a", DOWN, 1, 1) is Cost.NOTHING
    assert pace.wake_at(1) == 3
    pace.started(["probe 2"])
    assert pace.ended("probe 2", "b", DELIVERED, 3, 3) is Cost.AN_ATTEMPT
    assert pace.room(3, in_flight=0) == 8


def test_a_servers_errors_for_users_that_were_never_served_are_their_own() -> None:
    pace = pace_of()
    for user in "abcdefgh":
        assert pace.ended(object(), user, ERROR, 0, 0) is Cost.AN_ATTEMPT
    assert not pace.breaker.is_open


def test_a_servers_errors_for_users_that_were_served_tell_of_an_outage() -> None:
    pace = pace_of()
    for user in "abcd":
        pace.ended(object(), user, DELIVERED, 0, 0)
    pace.room(20, in_flight=0)
    counted = [pace.ended(object(), user, ERROR, 20, 20) for user in "abcd"]
    assert counted == [Cost.PERHAPS, Cost.PERHAPS, Cost.NOTHING, Cost.NOTHING]
    pace.started(["probe"])
    # A probe may be anybody's: this one's error may be the user's own, so another is to try.
    assert pace.ended("probe", "never served", ERROR, 21, 21) is Cost.NOTHING
    assert pace.breaker.is_open


def test_a_refusal_is_an_answer_and_ends_the_outage() -> None:
    pace = pace_of()
    for user in "abc":
        pace.ended(object(), user, DOWN, 0, 0)
    pace.started(["probe"])
    assert pace.ended("probe", "a", Refused("answered 400", 400), 1, 1) is Cost.AN_ATTEMPT
    assert not pace.breaker.is_open


def test_what_was_not_sent_says_nothing_of_the_destination() -> None:
    pace = pace_of()
    for user in "abc":
        pace.ended(object(), user, DOWN, 0, 0)
    for nothing in (Malformed("no id"), Forbidden("10.0.0.1 is internal")):
        pace.started(["probe"])
        assert pace.ended("probe", "a", nothing, 1, 1) is Cost.AN_ATTEMPT
        assert pace.breaker.is_open
        assert pace.room(1, in_flight=0) == 1


def test_a_destination_that_wants_nothing_more_gets_nothing_and_spends_nothing() -> None:
    pace = pace_of()
    assert pace.ended(object(), "Ada", Disabled("answered 410", 410), 0, 0) is Cost.NOTHING
    pace.suspended_because = "answered 410"
    assert pace.room(0, in_flight=0) == 0
    assert pace.wake_at(0) == math.inf


def test_new_numbers_hold_from_then_on() -> None:
    pace = pace_of(8)
    pace.reconfigure(PaceOptions(4, rate_limit=1))
    assert pace.room(0, in_flight=0) == 1
    pace.reconfigure(PaceOptions(8))
    assert pace.room(0, in_flight=0) == 4
    pace.delivered(1, 0)


def test_failures_of_a_moment_are_no_outage_and_cost_what_they_cost() -> None:
    breaker = BreakerOptions(users=3, after_s=2)
    pace = Pace(PaceOptions(8, breaker=breaker))
    costs = [pace.ended(object(), user, DOWN, 0, 0) for user in "abcd"]
    assert costs == [Cost.PERHAPS] * 4
    assert pace.breaker.is_suspicious
    pace.ended(object(), "a", DELIVERED, 1, 1)
    assert pace.ended(object(), "b", DOWN, 3, 3) is Cost.PERHAPS
    assert not pace.breaker.is_open


def test_what_lasts_is_an_outage() -> None:
    pace = Pace(PaceOptions(8, breaker=BreakerOptions(users=3, after_s=2)))
    for now, user in enumerate("abcd"):
        pace.ended(object(), user, DOWN, now, now)
    assert pace.breaker.is_suspicious
    assert pace.ended(object(), "e", DOWN, 4, 4) is Cost.NOTHING
    assert pace.breaker.is_open
