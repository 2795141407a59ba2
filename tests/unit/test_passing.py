"""Events that need no lane: who may pass, and that nothing of a user's order is lost by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dispatch.commands import Note
from dispatch.delivery import Delivery
from dispatch.holding import Holding
from dispatch.lane import State
from dispatch.outcome import Delivered, Outcome, Unavailable, Withdrawn
from dispatch.pace import PaceOptions
from keylane.controlrecord import Order, What
from tests.unit.lanes_desk import Arrival, Desk
from tests.unit.worker_site import Immediate, Site, delivered
from tests.waiting import until

#: Above what arrives in any of these tests.
MANY = 500


@pytest.fixture
def desk() -> Desk:
    """Ada and Bob are known: something of them has just been finished."""
    desk = Desk()
    desk.arrive("Ada", 1)
    desk.arrive("Bob", 2)
    desk.deliver(1)
    desk.deliver(2)
    return desk


def pass_by(desk: Desk, *arrivals: Arrival, limit: int = MANY) -> tuple[list[int], list[int]]:
    """The numbers of those that may pass, and of the rest."""
    if not desk.lanes.passing.is_open(0, desk.now):
        return [], [arrival.number for arrival in arrivals]
    chosen, rest = desk.lanes.passing.choose(0, arrivals, limit)
    return [m.position[1] for m in chosen], [m.position[1] for m in rest]


def test_one_event_of_each_known_user_passes(desk: Desk) -> None:
    assert pass_by(desk, Arrival("Ada", 3), Arrival("Bob", 4)) == ([3, 4], [])


def test_the_next_one_of_its_user_does_not(desk: Desk) -> None:
    arrivals = (Arrival("Ada", 3), Arrival("Ada", 4), Arrival("Bob", 5), Arrival("Ada", 6))
    assert pass_by(desk, *arrivals) == ([3, 5], [4, 6])


def test_nothing_passes_that_stands_behind_one_of_its_user_that_may_not(desk: Desk) -> None:
    arrivals = (Arrival("Ada", 3, redelivery_count=1), Arrival("Ada", 4))
    assert pass_by(desk, *arrivals) == ([], [3, 4])


def test_an_event_does_not_pass_those_of_its_user_that_have_a_lane(desk: Desk) -> None:
    desk.arrive("Ada", 3)
    assert pass_by(desk, Arrival("Ada", 4), Arrival("Bob", 5)) == ([5], [4])


def test_an_event_of_a_user_who_is_unknown_here_does_not_pass(desk: Desk) -> None:
    assert pass_by(desk, Arrival("Cy", 3)) == ([], [3])
    # Nor of one of whom nothing has been finished for long.
    desk.wait(11)
    assert pass_by(desk, Arrival("Ada", 4)) == ([], [4])


def test_a_message_without_a_user_does_not_pass(desk: Desk) -> None:
    desk.arrive("", 3)
    desk.deliver(3)
    assert pass_by(desk, Arrival("", 4)) == ([], [4])


def test_what_was_sent_before_does_not_pass(desk: Desk) -> None:
    assert pass_by(desk, Arrival("Ada", 3, redelivery_count=1)) == ([], [3])


def test_what_another_worker_tells_of_does_not_pass(desk: Desk) -> None:
    desk.lanes.learn(0, Note((1, 3, -1), 0, 1))
    assert pass_by(desk, Arrival("Ada", 3)) == ([], [3])


def test_what_was_finished_is_acknowledged_again_but_does_not_pass(desk: Desk) -> None:
    passing = Arrival("Ada", 3)
    desk.lanes.passing.finish(0, [passing])
    assert pass_by(desk, passing) == ([], [3])
    desk.arrive("Ada", 3)
    assert desk.acknowledged == [1, 2, 3, 3]
    assert desk.running == {}


def test_no_more_pass_in_one_go_than_may(desk: Desk) -> None:
    arrivals = (Arrival("Ada", 3), Arrival("Bob", 4))
    assert pass_by(desk, *arrivals, limit=1) == ([3], [4])


def test_nothing_passes_without_a_connection(desk: Desk) -> None:
    desk.lanes.disconnect(0, desk.now)
    assert not desk.lanes.passing.is_open(0, desk.now)


def test_nothing_passes_when_the_connection_is_new(desk: Desk) -> None:
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.arrive("Ada", 3)
    desk.wait(0.5)
    desk.deliver(3)
    assert not desk.lanes.passing.is_open(0, desk.now)
    desk.wait(2)
    assert pass_by(desk, Arrival("Ada", 4)) == ([4], [])


def test_nothing_passes_while_the_broker_does_not_answer(desk: Desk) -> None:
    desk.is_answered = False
    desk.wait(7)
    assert not desk.lanes.passing.is_open(0, desk.now)


def test_nothing_passes_at_a_process_that_stood_still(desk: Desk) -> None:
    assert not desk.lanes.passing.is_open(0, desk.now + 1.1)


def test_nothing_passes_those_who_wait_for_their_turn() -> None:
    busy = Desk(concurrency=1)
    busy.arrive("Ada", 1)
    assert busy.lanes.passing.is_open(0, busy.now)
    busy.arrive("Bob", 2)
    assert not busy.lanes.passing.is_open(0, busy.now)


def test_nothing_passes_where_users_can_be_held() -> None:
    desk = Desk(holding=Holding(dead_letter=True))
    assert not desk.lanes.passing.is_open(0, desk.now)


def test_what_fails_as_it_passes_is_the_head_of_a_lane_then(desk: Desk) -> None:
    entry = desk.lanes.passing.keep(0, Arrival("Ada", 3), desk.now)
    assert (entry.state, entry.attempt) == (State.IN_FLIGHT, 1)
    desk.lanes.back_off(entry, 1.0, desk.now)
    desk.arrive("Ada", 4)
    desk.wait(0.95)
    assert desk.returned == [3]
    assert desk.running == {}
    desk.arrive("Ada", 3, count=1)
    assert list(desk.running) == [3]
    assert desk.running[3].attempt == 2
    desk.deliver(3)
    assert list(desk.running) == [4]


def test_a_user_whose_event_fails_as_it_passes_is_not_slow(desk: Desk) -> None:
    entry = desk.lanes.passing.keep(0, Arrival("Ada", 3), desk.now)
    desk.lanes.back_off(entry, 0.2, desk.now)
    desk.arrive("Ada", 3, count=1)
    assert desk.lanes.statistics(desk.now).slow_running == 0


# In a worker


class Watched(Immediate):
    """Tells of each event whether it had a lane when it was attempted."""

    def __init__(self, site: Site, answer: Callable[[Delivery], Outcome]) -> None:
        super().__init__(self._watch)
        self._site = site
        self._answer = answer
        self.passed: list[str] = []

    def _watch(self, delivery: Delivery) -> Outcome:
        partition = self._site.worker._lanes.partitions[delivery.partition]
        if delivery.message.key not in partition.lanes:
            self.passed.append(delivery.event.id)
        return self._answer(delivery)


def fails_first(delivery: Delivery) -> Outcome:
    is_first = delivery.event.id == "2" and delivery.attempt == 1
    return Unavailable("answered 500", 500) if is_first else Delivered()


async def know(site: Site, destination: Immediate, *users: str) -> None:
    """Let something of these users be finished."""
    for user in users:
        await site.publish(user, "1")
    await site.everything_is_done()
    destination.attempts.clear()


async def test_a_known_users_events_pass_and_are_counted_as_any(site: Site) -> None:
    destination = Watched(site, delivered)
    await site.start(destination)
    await know(site, destination, "Ada")
    await site.publish("Ada", "2", "3", "4")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:2:1", "Ada:3:1", "Ada:4:1"]
    assert "2" in destination.passed
    counts = site.worker.metrics.counts
    assert (counts.attempts["delivered"], counts.acknowledged) == (4, 4)


async def test_what_comes_behind_an_event_that_fails_as_it_passes_waits_for_it(site: Site) -> None:
    destination = Watched(site, fails_first)
    await site.start(destination)
    await know(site, destination, "Ada", "Bob")
    await site.publish("Ada", "2", "3")
    await site.publish("Bob", "4")
    await site.everything_is_done()
    assert "2" in destination.passed
    of_ada = [line for line in destination.attempts if line.startswith("Ada")]
    assert of_ada == ["Ada:2:1", "Ada:2:2", "Ada:3:1"]


async def test_a_bug_of_the_destination_costs_an_attempt_and_no_event(site: Site) -> None:
    def breaks(delivery: Delivery) -> Outcome:
        if delivery.attempt == 1 and delivery.event.id == "2":
            raise RuntimeError("a bug")
        return Delivered()

    destination = Watched(site, breaks)
    await site.start(destination)
    await know(site, destination, "Ada")
    await site.publish("Ada", "2", "3")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:2:1", "Ada:2:2", "Ada:3:1"]


async def test_what_was_withdrawn_as_it_passed_is_attempted_as_if_it_never_was(site: Site) -> None:
    answers: Iterator[Outcome] = iter([Delivered(), Withdrawn()])
    destination = Watched(site, lambda _: next(answers, Delivered()))
    await site.start(destination)
    await know(site, destination, "Ada")
    await site.publish("Ada", "2")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:2:1", "Ada:2:1"]


async def test_nothing_passes_where_a_rate_is_set(site: Site) -> None:
    destination = Watched(site, delivered)
    await site.start(destination, pace=PaceOptions(rate_limit=1000))
    await know(site, destination, "Ada")
    await site.publish("Ada", "2", "3")
    await site.everything_is_done()
    assert destination.passed == []


async def test_what_a_person_ordered_is_done_before_the_event_passes(site: Site) -> None:
    destination = Watched(site, delivered)
    await site.start(destination)
    await know(site, destination, "Ada")
    # Of an event that has not come yet: another worker had it when this was ordered.
    site.worker._orders.say("Ada", Order(What.SKIP, "0:0:1", token="t", at="2026-01-01T00:00:00Z"))
    await site.publish("Ada", "2", "3")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:3:1"]


async def test_a_paused_worker_lets_nothing_pass(site: Site) -> None:
    destination = Watched(site, delivered)
    await site.start(destination)
    await know(site, destination, "Ada")
    site.worker._pace.is_paused = True
    await site.publish("Ada", "2")
    await until(lambda: site.worker.metrics.counts.received == 2)
    assert destination.attempts == []


async def test_a_worker_that_has_lost_its_way_ends_and_keeps_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = Watched(site, delivered)
    await site.start(destination)
    await know(site, destination, "Ada")

    def breaks(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(site.worker._lanes.passing, "finish", breaks)
    await site.publish("Ada", "2")
    with pytest.raises(RuntimeError, match="a bug"):
        await site.running
    assert site.cluster.backlog("events", "crm") == 1
