"""Rare meetings of the lanes' rules, one by one: schedules come across them, but seldom."""

from __future__ import annotations

import math

import pytest

from tests.unit.lanes_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def reconnect(desk: Desk) -> None:
    desk.lanes.disconnect(0, desk.now)
    desk.now += 0.1
    desk.lanes.connect(0, desk.now)
    desk.step()


def test_a_rounding_error_between_two_clocks_does_not_ring_a_timer_for_ever(desk: Desk) -> None:
    desk.now = 4096.0
    desk.step()
    desk.arrive("Ada", 1)
    desk.fail(1)
    desk.wait(1.2)
    partition = desk.lanes.partitions[0]
    (lane,) = partition.lanes.values()
    # Too little to be added to the time of day.
    partition.received_s = lane.awaited_until - 1e-13
    partition.stepped_at = desk.now = 4096.0 + 10
    desk.step()
    assert lane.is_given_back


def test_an_attempt_does_not_begin_though_another_step_came_after_the_process_was_frozen(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1)
    entry = desk.running.pop(1)
    desk.is_answered = False
    desk.now += 5
    assert desk.lanes.is_doubtful(entry, desk.now)
    desk.step()
    assert desk.lanes.is_doubtful(entry, desk.now)
    desk.lanes.withdraw(entry, desk.now)
    desk.is_answered = True
    desk.step()
    assert list(desk.running) == [1]


def test_what_may_be_another_workers_by_now_is_not_tried_again_from_memory() -> None:
    desk = Desk(max_lane_events=3)
    desk.arrive("Ada", 1)
    reconnect(desk)
    # The broker sends what comes behind it, but not the event itself: that is another's.
    desk.arrive("Ada", 2, 3)
    desk.fail(1, delay_s=0.5)
    desk.wait(1)
    assert desk.running == {}
    assert desk.returned == []


def test_a_connection_stays_fresh_while_nothing_can_be_received() -> None:
    desk = Desk(concurrency=1, max_lane_events=2)
    reconnect(desk)
    desk.arrive("Bob", 11, 12)
    desk.wait(5)
    assert not desk.lanes.may_receive(desk.now)
    desk.arrive("Ada", 2)
    desk.deliver(11)
    assert sorted(desk.running) == [12]
    desk.deliver(12)
    assert desk.running == {}


def test_a_lane_that_was_given_back_is_kept_while_nothing_can_be_received() -> None:
    desk = Desk(concurrency=1, max_lane_events=2)
    desk.arrive("Ada", 1)
    desk.fail(1)
    desk.wait(4)
    desk.arrive("Bob", 11, 12)
    desk.wait(60)
    assert not desk.lanes.may_receive(desk.now)
    # It was sent before the other was given back, and lay at the client.
    desk.arrive("Ada", 2)
    desk.deliver(11)
    desk.deliver(12)
    assert desk.running == {}


def test_a_lane_is_not_forgotten_while_it_holds_something() -> None:
    desk = Desk(quiet_s=40, proofs=1)
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(20)
    desk.arrive("Ada", 2, count=1)
    desk.wait(45)
    assert list(desk.running) == [2]


def test_a_tail_is_given_back_again_when_its_head_goes_away_again(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(3.6)
    desk.arrive("Ada", 1, count=1)
    desk.arrive("Ada", 2, count=1)
    desk.fail(1)
    desk.wait(3.6)
    assert desk.returned == [1, 2, 1, 2]


def test_pages_are_fetched_though_a_connection_was_lost_when_they_were_to_be() -> None:
    desk = Desk(lane_payload_events=2)
    desk.arrive("Ada", 1, 2, 3, 4)
    desk.arrive("Bob", 9)
    # The next burst has to wait.
    desk.fail(9, delay_s=0.0)
    desk.deliver(1)
    assert desk.returned == [9]
    reconnect(desk)
    desk.arrive("Ada", 2, 3, 4)
    desk.deliver(2)
    desk.wait(0.3)
    assert desk.returned == [9, 4]


def test_an_event_behind_a_redelivered_one_was_never_attempted_though_its_lane_is_empty(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1, count=1)
    desk.wait(0.3)
    desk.deliver(1)
    desk.arrive("Ada", 2, count=1)
    desk.wait(0.3)
    assert desk.running[2].attempt == 1


def test_a_predecessor_that_takes_its_place_was_the_one_that_was_attempted(desk: Desk) -> None:
    desk.arrive("Ada", 2, count=1)
    desk.arrive("Ada", 1, count=2)
    desk.wait(0.3)
    assert desk.running[1].attempt == 3
    desk.deliver(1)
    assert desk.running[2].attempt == 1


def test_a_running_attempt_that_others_made_too_weighs_what_a_failed_one_does(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    # The desk verifies the sum.
    desk.arrive("Ada", 1, count=1)
    assert desk.running[1].attempt == 2


def test_a_late_predecessor_is_given_back_with_the_rest(desk: Desk) -> None:
    desk.arrive("Ada", 2)
    desk.arrive("Ada", 1)
    desk.arrive("Ada", 3)
    desk.fail(2)
    desk.wait(12)
    assert sorted(desk.returned) == [1, 2, 3]


def test_what_is_condemned_is_not_attempted_again_after_a_lost_connection(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.lanes.give_up(desk.running.pop(1))
    desk.step()
    desk.lanes.keep_condemned(desk.dead[0], 1.0, desk.now)
    reconnect(desk)
    desk.arrive("Ada", 1, 2, count=1)
    desk.wait(1.0)
    assert desk.running == {}
    assert [entry.position[1] for entry in desk.dead] == [1, 1]


def test_what_is_condemned_and_was_another_workers_after_a_lost_connection_is_left_to_it(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1)
    desk.lanes.give_up(desk.running.pop(1))
    desk.step()
    desk.lanes.keep_condemned(desk.dead[0], 1.0, desk.now)
    reconnect(desk)
    desk.arrive("Ada", 2)
    desk.wait(10.0)
    assert list(desk.running) == [2]
    assert len(desk.dead) == 1


def test_a_predecessor_is_awaited_for_as_long_as_nobody_looks_for_it(desk: Desk) -> None:
    desk.arrive("Ada", 2, count=1)
    # The process did not run, and what came meanwhile was not looked at.
    desk.now += 0.9
    desk.step()
    assert desk.running == {}
    desk.arrive("Ada", 1, count=1)
    desk.wait(0.3)
    assert list(desk.running) == [1]


def test_an_event_of_a_user_not_seen_lately_waits_for_what_a_dead_worker_may_have_held() -> None:
    desk = Desk(meet_s=0.05)
    desk.arrive("Ada", 3)
    assert desk.running == {}
    desk.arrive("Ada", 1, 2, count=0)
    desk.wait(0.1)
    assert list(desk.running) == [1]


def test_an_event_of_a_user_seen_lately_does_not_wait() -> None:
    desk = Desk(meet_s=0.05)
    desk.arrive("Ada", 1)
    desk.wait(0.1)
    desk.deliver(1)
    desk.wait(3.0)
    desk.arrive("Ada", 2)
    assert list(desk.running) == [2]
    desk.deliver(2)
    desk.wait(11.0)
    desk.arrive("Ada", 3)
    assert desk.running == {}


def test_a_wait_for_a_predecessor_begins_when_the_event_comes_though_nothing_happened_before() -> (
    None
):
    desk = Desk(meet_s=0.05)
    desk.now += 1
    desk.arrive("Ada", 2)
    desk.wait(0.04)
    assert desk.running == {}
    desk.arrive("Ada", 1)
    desk.wait(0.02)
    assert list(desk.running) == [1]


def test_a_wait_for_a_predecessor_takes_no_longer_where_nothing_else_happens() -> None:
    desk = Desk(settle_s=0.2)
    came_at = desk.now
    desk.arrive("Ada", 1, count=1)
    while not desk.running:
        desk.now = desk.lanes.wake_at(desk.now)
        desk.step()
    assert desk.now - came_at == pytest.approx(0.2)


def test_nothing_rings_for_those_who_wait_for_a_predecessor_while_nothing_can_come() -> None:
    desk = Desk(settle_s=0.2)
    desk.arrive("Ada", 1, count=1)
    desk.lanes.disconnect(0, desk.now)
    assert desk.lanes.wake_at(desk.now) == math.inf


def test_what_comes_with_an_event_that_was_finished_here_waits_for_a_predecessor() -> None:
    desk = Desk(settle_s=0.2)
    desk.arrive("Ada", 1)
    desk.deliver(1)
    desk.wait(3)
    # Another worker had it, because its acknowledgement was lost, and gives it back with the rest.
    desk.arrive("Ada", 1, count=1)
    assert desk.acknowledged == [1, 1]
    desk.arrive("Ada", 3)
    desk.wait(0.18)
    assert desk.running == {}
    desk.arrive("Ada", 2, count=1)
    desk.wait(0.04)
    assert list(desk.running) == [2]


def test_only_what_comes_first_with_an_event_that_was_finished_here_waits() -> None:
    desk = Desk(settle_s=0.2)
    desk.arrive("Ada", 1)
    desk.deliver(1)
    desk.arrive("Ada", 1, count=1)
    desk.arrive("Ada", 2)
    desk.wait(0.22)
    desk.deliver(2)
    desk.arrive("Ada", 3)
    assert list(desk.running) == [3]
