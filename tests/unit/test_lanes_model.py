"""Several workers' lanes and the in-memory subscription, in schedules that hypothesis invents."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from typing_extensions import override

from tests.unit.lanes_world import World
from tests.unit.schedules import run_schedule

USERS = st.sampled_from(["Ada", "Bob", "Cy"])
OUTCOMES = st.sampled_from(["delivered", "delivered", "failed", "failed", "given up"])


class Lanes(RuleBasedStateMachine):
    """Users publish, workers come, go and break, attempts end as they like."""

    disturbs = True

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.join()
        for user in ("Ada", "Bob", "Cy"):
            self.publish(user, 3)
        self.receive_all()

    @property
    def names(self) -> list[str]:
        return list(self.world.workers)

    def pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names))

    @rule(user=USERS, events=st.integers(1, 4))
    def publish(self, user: str, events: int) -> None:
        for _ in range(events):
            self.world.publish(user)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), at_most=st.integers(1, 3))
    def receive(self, data: st.DataObject, at_most: int) -> None:
        self.world.receive(self.pick(data), at_most)

    @rule()
    def receive_all(self) -> None:
        for name in self.names:
            self.world.receive(name, 1000)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), outcome=OUTCOMES, which=st.integers(0, 3), delay=st.floats(0.1, 4))
    def finish(self, data: st.DataObject, outcome: str, which: int, delay: float) -> None:
        self.world.finish(self.pick(data), outcome, which, delay)

    @rule(outcome=OUTCOMES)
    def finish_all(self, outcome: str) -> None:
        for name in self.names:
            for _ in range(len(self.world.workers[name].running)):
                self.world.finish(name, outcome, delay_s=0.5)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), is_confirmed=st.booleans())
    def bury(self, data: st.DataObject, is_confirmed: bool) -> None:
        self.world.bury(self.pick(data), is_confirmed=is_confirmed)

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 2.5, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: len(self.names) < 4)
    @rule()
    def join(self) -> None:
        self.world.join()

    @precondition(lambda self: len(self.names) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(self.pick(data))

    @precondition(lambda self: self.disturbs and self.names)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.world.crash(self.pick(data))

    @precondition(lambda self: self.disturbs and self.names)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        self.world.disconnect(self.pick(data))

    @precondition(lambda self: self.disturbs and self.names)
    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        self.world.reconnect(self.pick(data))

    @invariant()
    def the_promises_hold(self) -> None:
        self.world.check()

    @override
    def teardown(self) -> None:
        """At the end everything drains: no circular wait, no lane forgotten."""
        self.world.drain()
        self.world.check()
        assert self.world.subscription.backlog() == 0, self.world.told()
        published = {p for positions in self.world.users.values() for p in positions}
        assert self.world.finished == published


class UndisturbedLanes(Lanes):
    """The same without crashes and lost connections: then there are no duplicates either."""

    disturbs = False


_PROFILE = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLanes = pytest.mark.timeout(120)(Lanes.TestCase)
TestLanes.settings = _PROFILE
TestUndisturbedLanes = pytest.mark.timeout(120)(UndisturbedLanes.TestCase)
TestUndisturbedLanes.settings = _PROFILE


@pytest.mark.timeout(120)
@pytest.mark.parametrize("disturbs", [False, True], ids=["undisturbed", "disturbed"])
def test_the_promises_hold_in_every_schedule_of_a_thousand_seeds(disturbs: bool) -> None:
    for seed in range(1000):
        world = run_schedule(seed, disturbs=disturbs)
        published = {p for positions in world.users.values() for p in positions}
        assert not world.judgement.broken, f"seed {seed}: {world.judgement.broken}"
        assert world.finished == published, f"seed {seed}: {world.told()}"
        assert world.subscription.backlog() == 0, f"seed {seed}: {world.told()}"
