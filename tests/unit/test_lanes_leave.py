"""Where users can be held a lane has its first turn with leave, and asks again in case of doubt."""

from __future__ import annotations

from dispatch.clearance import Ask
from dispatch.holding import Holding
from tests.unit.lanes_desk import Desk


def desk_that_asks() -> Desk:
    return Desk(holding=Holding(dead_letter=True))


def answer(desk: Desk, ask: Ask) -> None:
    desk.lanes.clear(ask, desk.now)
    desk.step()


def test_a_lane_has_its_first_turn_with_leave_and_the_next_ones_without_asking() -> None:
    desk = desk_that_asks()
    desk.arrive("Ada", 1, 2)
    assert list(desk.running) == []
    answer(desk, desk.asks.pop())
    assert list(desk.running) == [1]
    desk.deliver(1)
    assert list(desk.running) == [2]
    assert desk.asks == []


def test_nobody_asks_where_nobody_is_held() -> None:
    desk = Desk()
    desk.arrive("Ada", 1)
    assert list(desk.running) == [1]
    assert desk.asks == []


def test_an_event_that_comes_before_the_others_needs_leave_of_its_own() -> None:
    desk = desk_that_asks()
    desk.arrive("Ada", 2)
    asked_for_2 = desk.asks.pop()
    desk.arrive("Ada", 1)
    answer(desk, asked_for_2)
    # Its predecessor may have been given up elsewhere after that question.
    assert list(desk.running) == []
    answer(desk, desk.asks.pop())
    assert list(desk.running) == [1]


def test_a_lane_that_stands_in_turn_loses_it_when_it_has_to_ask_again() -> None:
    desk = Desk(holding=Holding(dead_letter=True), concurrency=1)
    desk.arrive("Bob", 9)
    answer(desk, desk.asks.pop())
    desk.arrive("Ada", 2)
    answer(desk, desk.asks.pop())
    desk.arrive("Ada", 1)
    desk.deliver(9)
    assert list(desk.running) == []
    answer(desk, desk.asks.pop())
    assert list(desk.running) == [1]


def test_what_comes_after_a_lost_connection_needs_leave_though_the_lane_is_the_same() -> None:
    desk = desk_that_asks()
    desk.arrive("Ada", 1)
    answer(desk, desk.asks.pop())
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.arrive("Ada", 1, 2, count=1)
    desk.deliver(1)
    desk.wait(1)
    assert list(desk.running) == []
    answer(desk, desk.asks.pop())
    assert list(desk.running) == [2]


def test_a_retry_needs_no_leave() -> None:
    desk = desk_that_asks()
    desk.arrive("Ada", 1)
    answer(desk, desk.asks.pop())
    desk.fail(1, delay_s=0.5)
    desk.wait(0.45)
    desk.arrive("Ada", 1, count=1)
    assert list(desk.running) == [1]


def test_who_is_put_off_waits_for_leave() -> None:
    desk = Desk()
    desk.arrive("Ada", 1)
    ask = desk.lanes.put_off(desk.running.pop(1))
    desk.wait(1)
    assert list(desk.running) == []
    answer(desk, ask)
    assert list(desk.running) == [1]
