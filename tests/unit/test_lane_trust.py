"""Attempts start only while the broker is sure to count the worker as its consumer."""

from __future__ import annotations

from tests.unit.lanes_desk import Desk


def test_nothing_starts_when_the_broker_has_not_answered_for_the_time_of_a_lease() -> None:
    desk = Desk(lease_s=20)
    desk.is_answered = False
    desk.wait(19)
    desk.arrive("Ada", 1)
    assert list(desk.running) == [1]
    desk.wait(1.1)
    desk.arrive("Bob", 2)
    desk.deliver(1)
    assert list(desk.running) == []
    assert desk.lanes.partitions.unsure() == {0}


def test_what_could_not_start_starts_when_the_broker_answers() -> None:
    desk = Desk(lease_s=20)
    desk.is_answered = False
    desk.wait(21)
    desk.arrive("Ada", 1)
    desk.arrive("Bob", 2)
    assert list(desk.running) == []
    desk.is_answered = True
    assert desk.step() == [1, 2]


def test_an_answer_counts_from_when_the_question_was_asked() -> None:
    desk = Desk(lease_s=20)
    desk.is_answered = False
    asked_at = desk.now
    desk.wait(15)
    desk.lanes.confirm(0, asked_at, desk.now)
    desk.wait(6)
    desk.arrive("Ada", 1)
    assert list(desk.running) == []


def test_after_a_freeze_nothing_starts_before_the_broker_was_asked_anew() -> None:
    desk = Desk(lease_s=20)
    desk.is_answered = False
    asked_before = desk.now
    desk.now += 3.0
    desk.arrive("Ada", 1)
    assert list(desk.running) == []
    # An answer from before the freeze, read only now.
    desk.lanes.confirm(0, asked_before, desk.now)
    assert desk.step() == []
    desk.lanes.confirm(0, desk.now, desk.now)
    assert desk.step() == [1]


def test_an_attempt_that_did_not_begin_before_a_freeze_is_withdrawn() -> None:
    desk = Desk()
    desk.arrive("Ada", 1, 2)
    entry = desk.running[1]
    assert not desk.lanes.is_doubtful(entry, desk.now + 0.5)
    desk.is_answered = False
    desk.now += 1.5
    assert desk.lanes.is_doubtful(entry, desk.now)
    desk.lanes.withdraw(desk.running.pop(1), desk.now)
    assert desk.step() == []
    desk.is_answered = True
    assert desk.step() == [1]
    assert desk.running[1].attempt == 1


def test_the_broker_is_to_be_asked_when_its_answer_gets_old() -> None:
    desk = Desk(lease_s=20)
    desk.is_answered = False
    assert desk.lanes.partitions.to_confirm(desk.now, 5) == []
    desk.wait(5.1)
    assert desk.lanes.partitions.to_confirm(desk.now, 5) == [0]
    desk.lanes.disconnect(0, desk.now)
    assert desk.lanes.partitions.to_confirm(desk.now, 5) == []
