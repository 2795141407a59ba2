"""Several workers' lanes and the in-memory subscription, in schedules that chance invents."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from tests.unit import lanes_faults
from tests.unit.lanes_ending import check_silence, drain
from tests.unit.lanes_search import AT_ONCE, search
from tests.unit.lanes_setting import Gated, Setting
from tests.unit.lanes_world import World
from tests.unit.schedules import HOLDING, PASSING, SPARING, run_schedule

#: Of each world; ten thousand in all. `make deep` looks through many more.
PLAIN, OTHERS = 4_000, 2_000

WHICH = st.integers(0, 3)
USERS = st.sampled_from(["Ada", "Bob", "Cy"])
OUTCOMES = st.sampled_from(["delivered", "delivered", "failed", "failed", "spared", "refused"])
SOON = st.sampled_from([0.1, 0.5, 3.0])


class Lanes(RuleBasedStateMachine):
    """Users publish, workers come, go and break, attempts end as they like."""

    setting = Setting()
    disturbs = True

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.setting)
        self.world.join()
        for user in ("Ada", "Bob", "Cy"):
            self.publish(user, 3)

    @rule(user=USERS, events=st.integers(1, 4))
    def publish(self, user: str, events: int) -> None:
        for _ in range(events):
            self.world.publish(user)

    @rule(user=USERS)
    def overtake(self, user: str) -> None:
        self.world.overtake(user)

    @rule(which=WHICH, at_most=st.integers(1, 3))
    def receive(self, which: int, at_most: int) -> None:
        self.world.receive(which, at_most)

    @rule(which=WHICH, outcome=OUTCOMES, place=st.integers(0, 3), delay=st.floats(0.1, 4))
    def finish(self, which: int, outcome: str, place: int, delay: float) -> None:
        self.world.finish(which, outcome, place, delay)

    @rule(outcome=OUTCOMES)
    def finish_all(self, outcome: str) -> None:
        for which in range(len(self.world.workers)):
            for _ in range(4):
                self.world.finish(which, outcome, delay_s=0.5)

    @rule(which=WHICH, is_confirmed=st.booleans())
    def bury(self, which: int, is_confirmed: bool) -> None:
        self.world.bury(which, is_confirmed=is_confirmed)

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 2.5, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: len(self.world.workers) < 4)
    @rule()
    def join(self) -> None:
        self.world.join()

    @precondition(lambda self: len(self.world.workers) > 1)
    @rule(which=WHICH)
    def leave(self, which: int) -> None:
        self.world.leave(which)

    @precondition(lambda self: self.disturbs)
    @rule(which=WHICH, seen_in=st.sampled_from([0.0, 30.0]), goes_on=st.booleans())
    def crash(self, which: int, seen_in: float, goes_on: bool) -> None:
        lanes_faults.crash(self.world, which, seen_in_s=seen_in, goes_on=[goes_on])

    @precondition(lambda self: self.disturbs)
    @rule(which=WHICH, back_in=SOON)
    def disconnect(self, which: int, back_in: float) -> None:
        lanes_faults.disconnect(self.world, which, back_in_s=back_in)

    @precondition(lambda self: self.disturbs)
    @rule(back_in=st.lists(SOON, min_size=4, max_size=4), forgets=st.booleans())
    def unload(self, back_in: list[float], forgets: bool) -> None:
        lanes_faults.unload(self.world, back_in, forgets=forgets)

    @precondition(lambda self: self.disturbs)
    @rule(which=WHICH, lost_in=st.integers(30, 60), noticed_in=st.integers(5, 60), lasts=SOON)
    def cut(self, which: int, lost_in: int, noticed_in: int, lasts: float) -> None:
        lanes_faults.cut(
            self.world, which, lost_in_s=lost_in, noticed_in_s=noticed_in, for_s=20 * lasts
        )

    @precondition(lambda self: self.disturbs)
    @rule(which=WHICH, lost_in=st.integers(30, 40), lasts=st.sampled_from([1.5, 5, 45]))
    def freeze(self, which: int, lost_in: int, lasts: float) -> None:
        lanes_faults.freeze(self.world, which, lost_in_s=lost_in, for_s=lasts)

    @invariant()
    def the_promises_hold(self) -> None:
        self.world.check()

    @override
    def teardown(self) -> None:
        """At the end everything drains: no circular wait, no lane forgotten, nothing left."""
        drain(self.world)
        check_silence(self.world)


class UndisturbedLanes(Lanes):
    """The same without crashes and lost connections: then nothing excuses a second attempt."""

    disturbs = False


class SlowLanes(Lanes):
    """The same with users that are slow most of the time."""

    setting = Setting(Gated(concurrency=4, slow_after_s=0.3))


class NarrowLanes(Lanes):
    """The same with payloads for two events of a lane, and a gate that closes all the time."""

    setting = Setting(
        Gated(concurrency=2, gate=2, lane_payload_events=2, max_lane_events=5),
        queue=2,
        is_eager=False,
        burst=2,
    )


_PROFILE = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLanes = pytest.mark.timeout(120)(Lanes.TestCase)
TestLanes.settings = _PROFILE
TestUndisturbedLanes = pytest.mark.timeout(120)(UndisturbedLanes.TestCase)
TestUndisturbedLanes.settings = _PROFILE
TestSlowLanes = pytest.mark.timeout(120)(SlowLanes.TestCase)
TestSlowLanes.settings = _PROFILE
TestNarrowLanes = pytest.mark.timeout(120)(NarrowLanes.TestCase)
TestNarrowLanes.settings = _PROFILE


def assert_nothing_breaks_in(seeds: range) -> None:
    found = search(seeds, AT_ONCE)
    assert found is None, f"python -m tests.unit.schedules --shrink --seed {found.seed}"


@pytest.mark.timeout(600)
def test_the_promises_hold_in_every_schedule() -> None:
    assert_nothing_breaks_in(range(PLAIN))


@pytest.mark.timeout(600)
def test_they_hold_while_attempts_do_not_count_and_users_are_slow() -> None:
    assert_nothing_breaks_in(range(SPARING, SPARING + OTHERS))


@pytest.mark.timeout(600)
def test_nobody_who_is_held_is_attempted_wherever_his_events_go() -> None:
    assert_nothing_breaks_in(range(HOLDING, HOLDING + OTHERS))


@pytest.mark.timeout(600)
def test_they_hold_where_events_need_no_lane() -> None:
    assert_nothing_breaks_in(range(PASSING, PASSING + OTHERS))


def test_events_that_need_no_lane_are_met_in_such_schedules() -> None:
    assert sum(run_schedule(PASSING + n).judge.passed for n in range(100)) > 75
