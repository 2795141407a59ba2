"""What a worker answers of its lanes, without a worker."""

from __future__ import annotations

import time
from typing import Any

import pytest
from typing_extensions import override

from dispatch.deadletter import AttemptHistory
from dispatch.lanereport import FULL_NAMED, MOST_LANES, lanes_of, order_of, status_of
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from dispatch.pace import Pace, PaceOptions
from tests.unit.lanes_desk import Arrival, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def rows(desk: Desk, top: int = 20, user: str | None = None) -> list[dict[str, Any]]:
    return lanes_of(desk.lanes, desk.now, top=top, user=user)


def users(desk: Desk, top: int = 20) -> list[str]:
    return [row["user"] for row in rows(desk, top)]


class Named(Arrival):
    """An arrival with properties, or with ones that can't be read."""

    found: dict[str, str] | None = None

    @override
    def properties(self) -> dict[str, str]:
        if self.found is None:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return self.found

    @override
    def value(self) -> bytes:
        raise AssertionError("a report opens no payload")


def named(number: int, properties: dict[str, str] | None) -> Named:
    arrival = Named("Ada", number)
    arrival.found = properties
    return arrival


# lanes


def test_who_failed_comes_first_and_of_those_who_waits_longest(desk: Desk) -> None:
    desk.arrive("fresh-and-old", 1)
    desk.wait(1)
    desk.arrive("fails", 2)
    desk.wait(1)
    desk.arrive("fails-too", 3)
    desk.fail(2, 60)
    desk.fail(3, 60)

    assert users(desk) == ["fails", "fails-too", "fresh-and-old"]
    assert users(desk, 2) == ["fails", "fails-too"]
    assert users(desk, 0) == []


def test_of_users_who_came_together_the_one_with_most_events_comes_first() -> None:
    desk = Desk(concurrency=1)
    for number, user in enumerate(["Ada", "Bob", "Cid", "Bob", "Cid", "Cid"]):
        desk.lanes.arrive(0, Arrival(user, number), desk.now)

    assert users(desk, 1) == ["Cid"]
    assert users(desk) == ["Cid", "Bob", "Ada"]


def test_a_lane_is_told_with_its_head(desk: Desk) -> None:
    desk.arrive("Ada", 1, 2, 3)
    desk.running[1].context = AttemptHistory(last_status=503, last_error="answered 503")
    desk.fail(1, delay_s=60)
    desk.wait(10)

    (row,) = rows(desk)

    assert row.pop("head_s") == pytest.approx(10, abs=0.1)
    assert row.pop("next_attempt_in_s") == pytest.approx(50, abs=0.1)
    assert row == {
        "user": "Ada",
        "partition": 0,
        "events": 3,
        "state": "backoff",
        "attempt": 2,
        "id": "1:1:0",
        "position": "0:1:1",
        "place": "0:1:1",
        "last_status": 503,
        "last_error": "answered 503",
    }


def test_a_lane_without_an_attempt_has_no_last_answer(desk: Desk) -> None:
    desk.arrive("Ada", 1)

    (row,) = rows(desk)

    assert (row["state"], row["attempt"]) == ("in_flight", 1)
    assert (row["last_status"], row["last_error"], row["next_attempt_in_s"]) == (None, "", None)


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({"ce_id": "order-7"}, "order-7"),
        ({"ORIGIN_MESSAGE_ID": "5:6:2"}, "5:6:2"),
        ({}, "1:1:0"),
        (None, "1:1:0"),
    ],
)
def test_the_head_is_told_by_its_id_and_its_payload_is_left_alone(
    desk: Desk, properties: dict[str, str] | None, told: str
) -> None:
    desk.lanes.arrive(0, named(1, properties), desk.now)

    assert rows(desk)[0]["id"] == told


def test_a_head_at_the_broker_has_no_id(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.fail(1, delay_s=0.1)
    desk.wait(0.2)

    (row,) = rows(desk)

    assert (row["state"], row["id"], row["position"]) == ("awaited", None, "0:1:1")


def test_a_given_up_head_is_on_its_way_to_the_dead_letters_until_that_is_confirmed(
    desk: Desk,
) -> None:
    desk.arrive("Ada", 1)
    entry = desk.running[1]
    desk.lanes.give_up(entry)
    desk.lanes.keep_condemned(entry, 60, desk.now)

    (row,) = rows(desk)

    assert (row["state"], row["next_attempt_in_s"]) == ("dead_lettering", None)


def test_a_user_that_waits_for_a_turn_is_told_apart_from_one_that_waits_for_leave() -> None:
    desk = Desk(concurrency=1)
    desk.arrive("Ada", 1)
    desk.arrive("Bob", 2)
    assert [row["state"] for row in rows(desk)] == ["in_flight", "ready"]

    desk.lanes.put_off(desk.running.pop(1))

    assert {row["user"]: row["state"] for row in rows(desk)} == {"Ada": "waiting", "Bob": "ready"}


def test_one_user_is_found_wherever_the_lane_stands(desk: Desk) -> None:
    for number in range(100):
        desk.arrive(f"user-{number}", number)

    assert [row["events"] for row in rows(desk, user="user-73")] == [1]
    assert rows(desk, user="nobody") == []


def test_a_user_whose_events_are_live_and_redriven_has_two_lanes(desk: Desk) -> None:
    desk.lanes.connect(-1, desk.now)
    desk.arrive("Ada", 1)
    desk.lanes.arrive(-1, Arrival("Ada", 9), desk.now)

    assert sorted(row["place"] for row in rows(desk, user="Ada")) == ["-1:1:9", "0:1:1"]


def test_an_event_that_is_delivered_once_more_is_told_by_where_it_lay_first(desk: Desk) -> None:
    desk.lanes.connect(-1, desk.now)
    desk.lanes.arrive(-1, named(9, {"ce_id": "order-7", "ORIGIN_MESSAGE_ID": "5:6:2:3"}), desk.now)

    (row,) = rows(desk)

    assert (row["id"], row["position"], row["place"]) == ("order-7", "2:5:6:3", "-1:1:9")


def test_a_key_that_moved_is_another_workers(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.lanes.partitions[0].lanes["Ada"].is_given_back = True

    assert rows(desk) == []
    assert rows(desk, user="Ada") == []


def test_an_event_without_a_user_is_told_without_one(desk: Desk) -> None:
    desk.arrive("", 1)

    assert users(desk) == [""]


def test_errors_are_cut_and_lanes_are_too_many_for_one_answer(desk: Desk) -> None:
    desk.arrive("Ada", 1)
    desk.running[1].context = AttemptHistory(last_error="x" * 1000)
    for number in range(2, MOST_LANES + 10):
        desk.lanes.arrive(0, Arrival(f"user-{number}", number), desk.now)

    found = rows(desk, top=10_000)

    assert len(found) == MOST_LANES
    assert max(len(row["last_error"]) for row in found) == 500


def test_rows_of_several_workers_stand_in_the_order_of_each(desk: Desk) -> None:
    for number, user in enumerate(["Ada", "Bob", "Cid"]):
        desk.arrive(user, number)
        desk.wait(1)
    desk.fail(2, 60)

    found = rows(desk)

    assert [row["user"] for row in found] == ["Cid", "Ada", "Bob"]
    shuffled = [found[1], found[2], found[0]]
    assert sorted(shuffled, key=order_of) == found


def test_a_report_of_a_hundred_thousand_users_takes_a_moment() -> None:
    lanes = Lanes(LaneOptions())
    lanes.connect(0, 0.0)
    for number in range(100_000):
        lanes.arrive(0, named_for(number), number / 1000)

    began = time.process_time()
    found = lanes_of(lanes, 100.0, top=20)
    took_s = time.process_time() - began

    assert [row["user"] for row in found] == [f"user-{number}" for number in range(20)]
    # Measured: 0.05 s. An attempt's timeouts and the lease are seconds.
    assert took_s < 0.5


def named_for(number: int) -> Arrival:
    return Arrival(f"user-{number}", number)


# status


def status(desk: Desk, pace: Pace | None = None) -> dict[str, Any]:
    return status_of(desk.lanes, pace or Pace(PaceOptions(concurrency=8)), desk.now)


def test_a_workers_figures_are_told() -> None:
    desk = Desk(concurrency=2, max_lane_events=3)
    desk.arrive("Ada", 1, 2, 3)
    desk.arrive("Bob", 4)
    desk.arrive("Cid", 5)
    desk.fail(4, delay_s=60)
    desk.arrive("Dan", 6)
    desk.wait(2)

    told = status(desk)

    assert told.pop("oldest_head_s") == pytest.approx(2, abs=0.1)
    assert told == {
        "lanes": 4,
        "ready": 1,
        "held": 3,
        "awaited": 0,
        "paged": 0,
        "in_flight": 2,
        "backoff": 1,
        "dead_lettering": 0,
        "full": 1,
        "full_users": ["Ada"],
        "breaker": "closed",
        "concurrency": 8,
        "disabled_because": None,
        "is_paused": False,
        "is_live_stopped": False,
        "is_receiving": False,
    }


def test_why_nothing_is_attempted_is_told(desk: Desk) -> None:
    pace = Pace(PaceOptions(concurrency=8))
    pace.suspended_because = "answered 410"
    pace.is_paused = True

    told = status(desk, pace)

    assert told["disabled_because"] == "answered 410"
    assert told["is_paused"]


def test_users_at_the_limit_are_counted_and_some_of_them_named() -> None:
    desk = Desk(max_lane_events=1, verifies=False)
    for number in range(FULL_NAMED + 5):
        desk.lanes.arrive(0, Arrival(f"user-{number}", number), desk.now)

    told = status(desk)

    assert told["full"] == FULL_NAMED + 5
    assert len(told["full_users"]) == FULL_NAMED
