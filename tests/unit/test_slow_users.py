"""Users whose attempts take long have a share of the slots, and no more."""

from __future__ import annotations

from tests.unit.lanes_desk import Desk

SLOW = ("Sam", "Sue", "Sid", "Sol")


def desk_with_slow_users(concurrency: int = 4) -> Desk:
    """Each of the slow users has had an attempt that took 6 s, and has nothing here now."""
    desk = Desk(concurrency=concurrency, slow_after_s=5.0, slow_share=0.5)
    for number, user in enumerate(SLOW, start=1):
        desk.arrive(user, number)
    desk.wait(6)
    for number in list(desk.running):
        desk.deliver(number)
    while desk.running:
        desk.wait(6)
        for number in list(desk.running):
            desk.deliver(number)
    return desk


def test_slow_users_get_their_share_and_leave_the_rest() -> None:
    desk = desk_with_slow_users()
    for number, user in enumerate(SLOW, start=11):
        desk.arrive(user, number)
    assert sorted(desk.running) == [11, 12]
    desk.arrive("Ada", 21)
    desk.arrive("Bob", 22)
    assert sorted(desk.running) == [11, 12, 21, 22]


def test_a_slow_user_goes_on_when_another_slow_one_is_done() -> None:
    desk = desk_with_slow_users()
    for number, user in enumerate(SLOW, start=11):
        desk.arrive(user, number)
    desk.wait(6)
    desk.deliver(11)
    assert sorted(desk.running) == [12, 13]


def test_slow_users_are_not_shut_out_by_many_quick_ones() -> None:
    desk = desk_with_slow_users()
    for number in range(100, 140):
        desk.arrive(f"user-{number}", number)
    desk.arrive("Sam", 11)
    for _ in range(4):
        desk.deliver(max(desk.running))
    assert 11 in desk.running


def test_an_attempt_that_is_quick_makes_its_user_one_of_the_others() -> None:
    desk = desk_with_slow_users()
    desk.arrive("Sam", 11)
    desk.wait(1)
    desk.deliver(11)
    desk.arrive("Sam", 12)
    desk.arrive("Sue", 13)
    desk.arrive("Sid", 14)
    assert sorted(desk.running) == [12, 13, 14]


def test_time_in_backoff_and_on_the_way_to_the_dead_letters_makes_nobody_slow() -> None:
    desk = Desk(concurrency=2, slow_after_s=5.0, slow_share=0.5)
    desk.arrive("Ada", 1, 2)
    entry = desk.running.pop(1)
    desk.lanes.give_up(entry)
    desk.wait(10)
    desk.lanes.acknowledge(entry, desk.now)
    desk.arrive("Bob", 3)
    assert sorted(desk.running) == [2, 3]


def test_receiving_goes_on_while_slow_users_have_all_that_they_may() -> None:
    desk = desk_with_slow_users()
    for number in range(1000, 1100):
        for user in SLOW:
            desk.arrive(user, number * 10 + SLOW.index(user))
    assert len(desk.running) == 2
    assert desk.lanes.may_receive(desk.now)


def test_an_attempt_that_does_not_count_keeps_its_number_and_place() -> None:
    desk = Desk(concurrency=1)
    desk.arrive("Ada", 1, 2)
    entry = desk.running.pop(1)
    desk.lanes.withdraw(entry, desk.now)
    assert desk.step() == [1]
    assert desk.running[1].attempt == 1


def test_one_that_does_not_count_and_may_be_anothers_by_now_is_waited_for() -> None:
    desk = Desk(concurrency=1)
    desk.arrive("Ada", 1)
    entry = desk.running.pop(1)
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.lanes.withdraw(entry, desk.now)
    desk.wait(1)
    assert desk.running == {}
    desk.arrive("Ada", 1)
    desk.wait(5)
    assert desk.running[1].attempt == 1
