"""A deep lane keeps its front here and the rest at the broker."""

from __future__ import annotations

from tests.unit.lanes_desk import Arrival, Desk


def deep_desk(events: int) -> Desk:
    """Ada's events 1 to n have arrived; the first one failed and backs off for a second."""
    desk = Desk(lane_payload_events=4)
    desk.arrive("Ada", *range(1, events + 1))
    desk.fail(1)
    return desk


def events(desk: Desk) -> dict[str, int]:
    counts = desk.lanes.statistics(desk.now).events
    return {state: count for state, count in counts.items() if count}


def come_back(desk: Desk, *numbers: int, count: int = 1) -> None:
    for number in numbers:
        desk.lanes.arrive(0, Arrival("Ada", number, count), desk.now)
    desk.step()


def test_only_so_many_payloads_of_a_lane_are_kept() -> None:
    desk = deep_desk(10)
    assert events(desk) == {"backoff": 1, "held": 3, "paged": 6}


def test_nothing_is_fetched_while_the_head_fails() -> None:
    desk = deep_desk(10)
    for attempt in range(1, 4):
        desk.wait(1.2)
        come_back(desk, 1, count=attempt)
        desk.fail(1)
    assert set(desk.returned) == {1}


def test_payloads_are_fetched_in_order_when_half_of_those_here_are_used_up() -> None:
    desk = deep_desk(10)
    desk.wait(1.2)
    come_back(desk, 1)
    desk.deliver(1)
    desk.returned.clear()
    desk.wait(0.3)
    assert desk.returned == []
    desk.deliver(2)
    desk.wait(0.3)
    assert desk.returned == [5, 6]
    come_back(desk, 5, 6)
    assert events(desk) == {"in_flight": 1, "held": 3, "paged": 4}


def test_a_deep_lane_is_delivered_in_order_to_its_end() -> None:
    desk = deep_desk(100)
    desk.wait(1.2)
    delivered = []
    while desk.returned:
        returned, desk.returned = desk.returned, []
        come_back(desk, *returned)
        while desk.running:
            delivered.append(next(iter(desk.running)))
            desk.deliver(delivered[-1])
        desk.wait(0.25)
    assert delivered == list(range(1, 101))
    assert events(desk) == {}
    assert desk.lanes.statistics(desk.now).payload_bytes == 0


def test_a_fetched_event_was_never_attempted() -> None:
    desk = deep_desk(6)
    desk.wait(1.2)
    come_back(desk, 1)
    for number in (1, 2, 3, 4):
        desk.deliver(number)
    desk.wait(0.3)
    come_back(desk, 5, 6)
    assert desk.running[5].attempt == 1


def test_a_lane_whose_key_moved_is_given_back_with_what_was_never_fetched() -> None:
    desk = deep_desk(8)
    desk.wait(1.2)
    assert desk.returned == [1]
    desk.wait(2.5)
    assert desk.returned == [1, 2, 3, 4, 5, 6, 7, 8]
    assert events(desk) == {"awaited": 8}


def test_what_arrives_again_and_is_not_needed_stays_at_the_broker() -> None:
    desk = deep_desk(8)
    come_back(desk, 7, count=0)
    assert events(desk) == {"backoff": 1, "held": 3, "paged": 4}


def test_a_late_arrival_among_what_is_not_here_stays_at_the_broker_too() -> None:
    desk = deep_desk(8)
    desk.arrive("Ada", 20)
    desk.arrive("Ada", 15)
    assert events(desk) == {"backoff": 1, "held": 3, "paged": 6}


def test_over_the_payload_budget_a_lane_keeps_only_a_few() -> None:
    desk = Desk(lane_payload_events=100, scarce_payload_events=2, payload_budget_bytes=10_000)
    desk.arrive("Ada", *range(1, 31))
    assert events(desk) == {"in_flight": 1, "held": 10, "paged": 19}
    desk.arrive("Bob", *range(31, 35))
    assert events(desk) == {"in_flight": 2, "held": 11, "paged": 21}


def test_what_the_broker_sends_after_a_reconnect_is_paged_anew() -> None:
    desk = deep_desk(10)
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.step()
    assert events(desk) == {}
    desk.arrive("Ada", *range(1, 11))
    assert events(desk) == {"held": 4, "paged": 6}
    desk.wait(0.3)
    assert list(desk.running) == [1]
