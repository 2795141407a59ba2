"""How often an event was attempted, as far as anybody can know."""

from __future__ import annotations

from dispatch.commands import Note
from tests.unit.lanes_desk import Arrival, Desk


def come_back(desk: Desk, number: int, count: int, key: str = "Ada") -> None:
    desk.lanes.arrive(0, Arrival(key, number, count), desk.now)
    desk.wait(0.25)


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


def give_back_with_tail(desk: Desk) -> None:
    """Ada's 1 failed and was sent back, did not return, and 2 and 3 were given back after it."""
    desk.arrive("Ada", 1, 2, 3)
    desk.fail(1)
    desk.wait(3.5)
    assert desk.returned == [1, 2, 3]


def notes(desk: Desk) -> list[tuple[int, int, int]]:
    return [(note.position[1], note.redeliveries, note.attempts) for note in desk.notes]


def test_nothing_is_told_of_an_event_that_the_broker_counted_right() -> None:
    desk = Desk()
    give_back_with_tail(desk)
    assert notes(desk) == []


def test_a_head_that_was_given_back_before_is_told_of_when_it_fails_and_when_it_moves() -> None:
    desk = Desk()
    come_back(desk, 1, count=1)
    come_back(desk, 2, count=2)
    desk.deliver(1)
    desk.fail(2)
    assert notes(desk) == [(2, 3, 1)]
    desk.wait(1.5)
    # Again when it goes, for a worker that has joined meanwhile.
    assert notes(desk) == [(2, 3, 1)] * 2
    desk.wait(2)
    assert notes(desk) == [(2, 3, 1)] * 3


def test_what_another_worker_tells_counts() -> None:
    desk = Desk()
    desk.lanes.learn(0, Note((1, 2, -1), redeliveries=3, attempts=1))
    come_back(desk, 2, count=3)
    assert desk.running[2].attempt == 2


def test_attempts_after_the_note_count_too_and_lost_counts_do_no_harm() -> None:
    desk = Desk()
    desk.lanes.learn(0, Note((1, 2, -1), redeliveries=3, attempts=1))
    desk.lanes.learn(0, Note((1, 3, -1), redeliveries=3, attempts=1))
    come_back(desk, 2, count=5)
    come_back(desk, 3, count=1, key="Bob")
    assert desk.running[2].attempt == 4
    assert desk.running[3].attempt == 1


def test_a_worker_that_leaves_tells_of_what_it_retried_from_its_own_memory() -> None:
    desk = Desk(concurrency=1, lane_share=1)
    for number in range(1, 10):
        desk.arrive(f"user-{number}", number)
    desk.fail(1, delay_s=0.2)
    desk.wait(0.5)
    for number in range(2, 10):
        desk.deliver(number)
    desk.fail(1)
    desk.lanes.hand_over()
    desk.step()
    assert notes(desk)[-1] == (1, 0, 2)


def test_a_note_counts_also_if_the_broker_counted_nothing() -> None:
    desk = Desk()
    desk.lanes.learn(0, Note((1, 2, -1), redeliveries=0, attempts=2))
    come_back(desk, 2, count=0)
    assert desk.running[2].attempt == 3
