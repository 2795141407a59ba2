"""The lanes' rules, one by one, without a broker: tests/unit/test_lanes_model.py mixes them."""

from __future__ import annotations

import pytest

from keylane.broker import REDELIVERY_BURST
from tests.unit.lanes_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_only_the_head_of_a_lane_is_attempted(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2, 3)
    assert list(desk.running) == [1]
    desk.deliver(1)
    assert list(desk.running) == [2]
    assert desk.acknowledged == [1]


def test_lanes_take_turns() -> None:
    desk = Desk(concurrency=1)
    desk.arrive("Ada", 1, 2, 3)
    desk.arrive("Bob", 4, 5)
    order = []
    while desk.running:
        number = next(iter(desk.running))
        order.append(number)
        desk.deliver(number)
    assert order == [1, 4, 2, 5, 3]


def test_no_more_attempts_run_at_once_than_the_concurrency() -> None:
    desk = Desk(concurrency=2)
    for number in range(5):
        desk.arrive(f"user-{number}", number)
    assert sorted(desk.running) == [0, 1]


def test_a_failed_head_holds_its_own_lane_only(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.arrive("Bob", 3, 4)
    desk.fail(1)
    desk.deliver(3)
    assert sorted(desk.running) == [4]


def test_a_failed_head_stays_unacknowledged_until_its_delay_is_over(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.fail(1, delay_s=5)
    desk.wait(4.8)
    assert desk.returned == []
    # The client takes another 0.1 s before it tells the broker.
    desk.wait(0.1)
    assert desk.returned == [1]
    assert desk.acknowledged == []


def test_newer_events_park_behind_a_head_that_is_expected_back(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.fail(1)
    desk.wait(1.2)
    desk.arrive("Ada", 2)
    assert desk.running == {}
    desk.arrive("Ada", 1, count=1)
    assert list(desk.running) == [1]


def test_attempts_are_counted_over_redeliveries(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    assert desk.running[1].attempt == 1
    desk.fail(1)
    desk.wait(1.2)
    desk.arrive("Ada", 1, count=1)
    assert desk.running[1].attempt == 2


def test_what_other_workers_attempted_counts_too(desk: Desk) -> None:
    desk.arrive("Ada", 1, count=3)
    desk.wait(0.3)
    assert desk.running[1].attempt == 4


def test_an_event_that_arrived_behind_another_was_never_attempted(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.arrive("Ada", 2, count=5)
    desk.deliver(1)
    assert desk.running[2].attempt == 1


def test_a_head_that_stays_away_gives_its_tail_back_in_order(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2, 3)
    desk.fail(1)
    desk.wait(1.2)
    assert desk.returned == [1]
    desk.wait(2.3)
    assert desk.returned == [1, 2, 3]


def test_the_broker_s_silence_counts_only_while_receiving() -> None:
    desk = Desk(concurrency=1, max_lane_events=3)
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(1.2)
    # Somebody else's full lane closes the gate.
    desk.arrive("Bob", 11, 12, 13, 14)
    assert not desk.lanes.may_receive(desk.now)
    desk.wait(10)
    assert desk.returned == [1]
    desk.deliver(11)
    desk.deliver(12)
    assert desk.lanes.may_receive(desk.now)
    desk.wait(2.5)
    assert desk.returned == [1, 2]


def test_a_process_that_stood_still_does_not_take_that_for_the_broker_s_silence(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(1.2)
    desk.now += 60
    desk.step()
    assert desk.returned == [1]


def test_what_arrives_for_a_lane_that_was_given_back_is_given_back_once_too(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(3.6)
    assert desk.returned == [1, 2]
    desk.arrive("Ada", 3)
    desk.wait(0.3)
    assert desk.returned == [1, 2, 3]
    assert desk.running == {}


def test_an_event_that_comes_back_alone_twice_proves_its_predecessors_done(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2, 3)
    desk.fail(1)
    desk.wait(3.6)
    desk.arrive("Ada", 3, count=1)
    desk.wait(0.6)
    assert desk.running == {}
    assert desk.returned == [1, 2, 3, 3]
    desk.arrive("Ada", 3, count=2)
    assert desk.running == {}
    desk.wait(0.3)
    assert list(desk.running) == [3]
    assert desk.running[3].attempt == 1


def test_an_event_that_was_overtaken_by_one_of_its_successors_is_attempted_first(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1, 2, 3)
    desk.fail(1)
    desk.wait(3.6)
    # Its owner left just when the broker read 3 again, and 1 and 2 were behind it.
    desk.arrive("Ada", 3, count=1)
    desk.wait(0.6)
    desk.arrive("Ada", 1, count=1)
    desk.arrive("Ada", 2, count=1)
    assert list(desk.running) == [1]


def test_an_unknown_predecessor_that_is_given_back_is_not_taken_for_done(desk: Desk) -> None:
    desk.arrive("Ada", 1, 3)
    desk.fail(1)
    desk.wait(3.6)
    assert desk.returned == [1, 3]
    desk.arrive("Ada", 3, count=1)
    desk.arrive("Ada", 2)
    desk.wait(0.2)
    assert desk.returned == [1, 3, 2, 3]
    # The predecessor went elsewhere; once and twice are not enough any more.
    for count in (2, 3):
        desk.arrive("Ada", 3, count=count)
        desk.wait(0.2)
        assert desk.running == {}


def test_what_was_given_back_before_the_head_went_away_proves_nothing(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(3.6)
    assert desk.returned == [1, 2]
    # The head is back, its tail is not, and the head goes away once more.
    desk.arrive("Ada", 1, count=1)
    desk.fail(1)
    desk.wait(3.6)
    assert desk.returned == [1, 2, 1]
    desk.arrive("Ada", 2, count=1)
    desk.wait(1.0)
    assert desk.running == {}
    assert desk.returned == [1, 2, 1, 2]


def test_a_head_that_comes_back_late_goes_on_before_its_tail(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(3.6)
    desk.arrive("Ada", 2, count=1)
    desk.arrive("Ada", 1, count=1)
    assert list(desk.running) == [1]
    desk.deliver(1)
    assert list(desk.running) == [2]


def test_a_lane_that_went_elsewhere_is_forgotten(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.fail(1)
    desk.wait(35)
    assert desk.lanes.statistics(desk.now).lanes == 0


def test_a_long_tail_is_given_back_in_slices_and_other_heads_go_first() -> None:
    desk = Desk()
    desk.arrive("Ada", *range(1, 2 * REDELIVERY_BURST + 2))
    desk.arrive("Bob", 5000)
    desk.fail(1, delay_s=0.2)
    desk.fail(5000, delay_s=2.6)
    bursts = []
    for _ in range(80):
        before = len(desk.returned)
        desk.wait(0.05)
        if desk.returned[before:]:
            bursts.append(desk.returned[before:])
    assert bursts[0] == [1]
    assert max(len(burst) for burst in bursts) == REDELIVERY_BURST
    given_back = [n for burst in bursts for n in burst if n not in (1, 5000)]
    assert given_back == list(range(2, 2 * REDELIVERY_BURST + 2))
    with_bob = next(burst for burst in bursts if 5000 in burst)
    assert with_bob[0] == 5000


def test_a_redelivered_event_that_opens_a_lane_waits_for_a_predecessor(desk: Desk) -> None:
    desk.arrive("Ada", 2, count=1)
    assert desk.running == {}
    desk.arrive("Ada", 1, count=1)
    desk.wait(0.3)
    assert list(desk.running) == [1]
    assert desk.lanes.statistics(desk.now).late == 0


def test_everything_settles_right_after_a_connection() -> None:
    desk = Desk()
    desk.lanes.connect(0, desk.now)
    desk.arrive("Ada", 2)
    assert desk.running == {}
    desk.wait(0.3)
    assert list(desk.running) == [2]


def test_a_predecessor_that_comes_too_late_is_counted_and_still_delivered(desk: Desk) -> None:
    desk.arrive("Ada", 2)
    desk.arrive("Ada", 1)
    assert desk.lanes.statistics(desk.now).late == 1
    desk.deliver(2)
    assert list(desk.running) == [1]


def test_the_same_event_again_joins_the_one_in_hand(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.arrive("Ada", 1)
    assert list(desk.running) == [1]
    desk.deliver(1)
    assert desk.acknowledged == [1]
    assert desk.lanes.statistics(desk.now).lanes == 0


def test_an_event_finished_lately_is_acknowledged_again_and_not_attempted(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.deliver(1)
    desk.arrive("Ada", 1)
    assert desk.running == {}
    assert desk.acknowledged == [1, 1]


def test_nothing_starts_while_the_connection_is_lost(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    desk.lanes.disconnect(0, desk.now)
    desk.deliver(1)
    desk.wait(1)
    assert desk.running == {}


def test_what_was_held_is_dropped_on_a_new_connection_but_a_running_attempt_goes_on(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1, 2)
    desk.arrive("Bob", 3)
    desk.fail(3)
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.step()
    assert (
        desk.lanes.statistics(desk.now).events["held"]
        == desk.lanes.statistics(desk.now).events["backoff"]
        == 0
    )
    assert list(desk.running) == [1]


def test_what_came_over_a_lost_connection_is_acknowledged_only_if_it_comes_again(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1)
    desk.lanes.disconnect(0, desk.now)
    desk.lanes.connect(0, desk.now)
    desk.step()
    desk.deliver(1)
    assert desk.acknowledged == []
    desk.arrive("Ada", 1)
    assert desk.running == {}
    assert desk.acknowledged == [1]


def test_what_is_delivered_without_a_connection_is_not_acknowledged_over_the_next_one(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1, 2)
    desk.lanes.acknowledge(desk.running.pop(1), desk.now)
    desk.lanes.disconnect(0, desk.now)
    desk.step()
    desk.lanes.connect(0, desk.now)
    desk.step()
    assert desk.acknowledged == []
    assert desk.running == {}


def test_a_dead_letter_holds_its_lane_until_it_is_confirmed(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2)
    entry = desk.running.pop(1)
    desk.lanes.give_up(entry)
    desk.step()
    assert desk.dead == [entry]
    assert desk.running == {}
    desk.lanes.keep_condemned(entry, 1.0, desk.now)
    desk.wait(1.1)
    assert desk.dead == [entry, entry]
    assert desk.returned == []
    desk.lanes.acknowledge(entry, desk.now)
    desk.step()
    assert desk.acknowledged == [1]
    assert list(desk.running) == [2]


def test_messages_without_a_key_are_lanes_of_their_own(desk: Desk) -> None:
    desk.arrive("", 1, 2)
    assert sorted(desk.running) == [1, 2]


def test_a_stuck_user_does_not_close_the_gate() -> None:
    desk = Desk(concurrency=1, verifies=False)
    desk.arrive("Ada", *range(1, 20_000))
    desk.fail(1, delay_s=100)
    desk.arrive("Bob", 30_000)
    assert desk.lanes.may_receive(desk.now)
    assert list(desk.running) == [30_000]


def test_ready_events_close_the_gate_while_every_slot_is_busy() -> None:
    desk = Desk(concurrency=1, verifies=False)
    limit = desk.lanes.options.gate_events
    for number in range(limit + 1):
        desk.arrive(f"user-{number}", number)
    assert not desk.lanes.may_receive(desk.now)
    while desk.lanes._tally.load >= limit * 3 // 4:
        desk.deliver(next(iter(desk.running)))
    assert desk.lanes.may_receive(desk.now)


def test_a_full_lane_stops_receiving_and_receiving_goes_on_by_itself() -> None:
    desk = Desk(max_lane_events=3)
    desk.arrive("Ada", 1, 2, 3)
    assert desk.lanes.statistics(desk.now).full == 1
    assert not desk.lanes.may_receive(desk.now)
    desk.deliver(1)
    assert desk.lanes.may_receive(desk.now)
    assert desk.lanes.statistics(desk.now).full == 0


def test_a_full_lane_tries_its_head_again_without_the_broker() -> None:
    desk = Desk(max_lane_events=3)
    desk.arrive("Ada", 1, 2, 3)
    desk.fail(1, delay_s=0.5)
    desk.wait(0.6)
    assert desk.returned == []
    assert list(desk.running) == [1]
    assert desk.running[1].attempt == 2
