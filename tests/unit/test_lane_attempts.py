"""How often an event was attempted, as far as anybody can know."""

from __future__ import annotations

from tests.unit.lanes_desk import Arrival, Desk


def come_back(desk: Desk, number: int, count: int, key: str = "Ada") -> None:
    desk.lanes.arrive(0, Arrival(key, number, count), desk.now)
    desk.wait(0.15)


def test_a_head_that_comes_from_another_worker_was_attempted_there() -> None:
    desk = Desk()
    come_back(desk, 1, count=2)
    assert desk.running[1].attempt == 3


def test_what_comes_behind_an_unfinished_event_was_never_attempted() -> None:
    desk = Desk()
    come_back(desk, 1, count=2)
    come_back(desk, 2, count=2)
    desk.deliver(1)
    assert desk.running[2].attempt == 1


def test_what_comes_after_its_predecessor_was_finished_here_was_never_attempted() -> None:
    desk = Desk()
    come_back(desk, 1, count=2)
    desk.deliver(1)
    come_back(desk, 2, count=2)
    assert desk.running[2].attempt == 1


def test_another_users_events_are_counted_as_they_come() -> None:
    desk = Desk()
    come_back(desk, 1, count=2)
    desk.deliver(1)
    come_back(desk, 2, count=2, key="Bob")
    assert desk.running[2].attempt == 3


def test_a_head_that_failed_here_and_was_tried_elsewhere_counts_all_attempts() -> None:
    desk = Desk()
    come_back(desk, 1, count=1)
    desk.deliver(1)
    desk.arrive("Ada", 2)
    desk.fail(2)
    desk.wait(1.3)
    # Nobody waits for it here any more when it returns.
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    come_back(desk, 2, count=3)
    assert desk.running[2].attempt == 4


def test_served_users_are_forgotten_after_two_minutes() -> None:
    desk = Desk()
    come_back(desk, 1, count=2)
    desk.deliver(1)
    desk.verifies = False
    desk.wait(125)
    come_back(desk, 2, count=2)
    assert desk.running[2].attempt == 3


def test_a_head_is_retried_from_here_while_the_gate_is_closed() -> None:
    desk = Desk(concurrency=1, lane_share=1)
    for number in range(1, 9):
        desk.arrive(f"user-{number}", number)
    desk.arrive("Ada", 9)
    assert not desk.lanes.statistics(desk.now).is_receiving
    desk.fail(1, delay_s=0.2)
    desk.arrive("user-10", 10)
    desk.wait(0.5)
    assert not desk.lanes.statistics(desk.now).is_receiving
    order = []
    while desk.running:
        order.append(next(iter(desk.running.values())).position[1])
        desk.deliver(order[-1])
    assert desk.returned == []
    assert order == [2, 3, 4, 5, 6, 7, 8, 9, 10, 1]


def test_an_event_that_was_retried_from_here_stays_until_it_is_done() -> None:
    desk = Desk(concurrency=1, lane_share=1)
    for number in range(1, 10):
        desk.arrive(f"user-{number}", number)
    desk.fail(1, delay_s=0.2)
    desk.wait(0.5)
    for number in range(2, 10):
        desk.deliver(number)
    assert desk.running[1].attempt == 2
    desk.fail(1, delay_s=0.2)
    desk.wait(0.5)
    assert desk.lanes.statistics(desk.now).is_receiving
    assert desk.returned == []
    assert desk.running[1].attempt == 3
