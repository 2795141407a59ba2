"""What a redrive sends and in which order; nothing is connected."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keylane.controlrecord import Standing, UserRecord
from keylane.errors import ContractError
from keylane.names import WHOLE
from keylane.place import EntryId
from operate.deadletters.acknowledged import Acknowledged
from operate.deadletters.filters import Filters
from operate.deadletters.letter import DeadLetter, Number, Origin, Place
from operate.deadletters.plan import (
    LARGE_BYTES,
    Figures,
    Resend,
    batches,
    is_upto,
    plan_of,
    without_torn,
)
from operate.deadletters.run import (
    Run,
    awaited_by,
    is_held,
    user_records,
    waits_for_another,
)
from operate.deadletters.waiting import called_off, waiting
from operate.pacing import Pacing
from tests.messages import Message

AT = "2026-01-31T12:00:00.000Z"


def letter(
    user: str,
    origin: tuple[int, int] | None,
    place: int = 0,
    *,
    index: int = -1,
    event_at_ms: int = 0,
    size: int = 2,
) -> DeadLetter:
    """`origin` is partition and entry, `place` the entry on the dead-letter topic."""
    return DeadLetter(
        place=Place(WHOLE, (7, place, index)),
        user=user,
        id="",
        type="",
        reason="max-attempts",
        attempts=8,
        status=503,
        at_ms=0,
        event_at_ms=event_at_ms,
        origin=None if origin is None else Origin(origin[0], (100, origin[1], -1)),
        message=Message(user, b"x" * size, {}),
    )


def entries(plan: list[Resend]) -> list[tuple[str, int]]:
    return [(one.letter.user, one.letter.place.position[1]) for one in plan]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.booleans()), max_size=60),
    st.randoms(use_true_random=False),
)
def test_each_users_events_are_in_their_original_order_each_once_and_one_is_the_last(
    found: list[tuple[str, int, bool]], order: random.Random
) -> None:
    events = {entry: (user, is_twice) for user, entry, is_twice in found}
    made = [
        letter(user, (ord(user) % 3, entry))
        for entry, (user, is_twice) in events.items()
        for _ in range(1 + is_twice)
    ]
    order.shuffle(made)
    letters = [
        letter(one.user, one.origin and (one.origin[0], one.origin[1][1]), place)
        for place, one in enumerate(made)
    ]

    plan = plan_of(letters)

    by_user, numbers = defaultdict(list), defaultdict(list)
    for one in plan:
        assert one.letter.origin is not None
        by_user[one.letter.user].append(one.letter.origin[1][1])
        numbers[one.number.publisher].append(one.number.value)
    wanted = defaultdict(list)
    for entry in sorted(events):
        wanted[events[entry][0]].append(entry)
    assert by_user == wanted
    # What the broker goes by: the numbers of each publisher grow, also over the end marks.
    for found_numbers in numbers.values():
        assert all(b - a >= 2 for a, b in itertools.pairwise(found_numbers))
    assert sorted(place for one in plan for place in one.places) == sorted(
        one.place for one in letters
    )
    last = {one.letter.user: one for one in plan}
    assert [one for one in plan if one.is_last] == sorted(last.values(), key=plan.index)
    figures = Figures.of(plan)
    assert (figures.dead_letters, figures.events) == (len(letters), len(events))
    assert figures.users == len(by_user)


def test_what_names_no_place_on_the_topic_comes_behind_all_in_the_order_of_the_dead_letters() -> (
    None
):
    plan = plan_of(
        [
            letter("ada", None, 1),
            letter("ada", (2, 5), 2),
            letter("bob", None, 3),
            letter("ada", (0, 9), 4),
        ]
    )

    assert entries(plan) == [("ada", 4), ("ada", 2), ("ada", 1), ("bob", 3)]
    assert [one.is_last for one in plan] == [False, False, True, True]
    assert Figures.of(plan).foreign == 2


def test_a_user_who_moved_between_partitions_has_the_order_in_which_events_were_accepted() -> None:
    moved = [
        letter("ada", (1, 4), 0, event_at_ms=10),
        letter("ada", (1, 8), 1, event_at_ms=30),
        letter("ada", (0, 3), 2, event_at_ms=40),
        letter("bob", (0, 1), 3, event_at_ms=10),
        letter("bob", (1, 9), 4, event_at_ms=50),
        letter("cyd", (0, 5), 5, event_at_ms=5),
    ]

    plan = plan_of(reversed(moved))

    by_user = defaultdict(list)
    for one in plan:
        by_user[one.letter.user].append(one.letter.event_at_ms)
    assert by_user == {"ada": [10, 30, 40], "bob": [10, 50], "cyd": [5]}


def test_batches_have_one_publisher_and_what_is_large_is_alone() -> None:
    plan = plan_of(
        [letter("ada", (0, n), n, size=LARGE_BYTES + 1 if n == 3 else 1) for n in range(6)]
        + [letter("bob", (1, n), 10 + n) for n in range(2)]
    )

    assert [len(batch) for batch in batches(plan, 2)] == [2, 1, 1, 2, 2]
    assert [one for batch in batches(plan, 2) for one in batch] == plan


def test_of_a_batch_of_a_producer_all_or_nothing_is_concerned() -> None:
    torn = [letter("ada", (0, n), 4, index=n) for n in range(3)]
    whole = [letter("ada", (0, 5 + n), 5, index=n) for n in range(2)]
    sizes = {torn[0].place.entry: 3, whole[0].place.entry: 2}
    single = letter("bob", (0, 9), 6)

    kept, left = without_torn([*torn[:2], *whole, single], sizes)

    assert (kept, left) == ([*whole, single], 2)


def test_what_came_after_the_reading_of_a_run_is_not_of_that_run() -> None:
    run = Run("t", Filters(), AT, through={WHOLE: EntryId(7, 5)})

    assert run.concerns(letter("ada", (0, 1), 5))
    assert not run.concerns(letter("ada", (0, 1), 6))
    assert not is_upto(Place(2, (7, 1, -1)), {WHOLE: EntryId(7, 5)})


def test_a_held_user_is_concerned_as_a_whole() -> None:
    run = Run("t", Filters(reason=("rejected",)), AT, whole=("ada",))

    assert run.concerns(letter("ada", (0, 1)))
    assert not run.concerns(letter("bob", (0, 1)))


def test_the_record_of_a_run_is_read_back_as_it_was() -> None:
    filters = Filters(user=("ada", "b/ü"), status=("5xx",), since_ms=5)
    run = Run("t", filters, AT, ("ada",), {WHOLE: EntryId(7, 5), 2: EntryId(1, 0)}, "")

    assert Run.decoded(run.encoded()) == run
    assert Run.decoded(Run("t", Filters(), AT).encoded()).through is None


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"token": "t", "filters": {"colour": 1}}'])
def test_what_is_no_record_of_a_run_is_refused(value: bytes) -> None:
    with pytest.raises(ContractError):
        Run.decoded(value)


def test_what_began_a_hold_survives_the_wait_and_is_there_again_if_it_is_called_off() -> None:
    held = UserRecord(Standing.HELD, AT, position="1:2:3", reason="rejected", has_failed=True)

    waits = waiting(held, "t")

    assert (waits.standing, waits.token, waits.has_failed) == (Standing.WAITING, "t", False)
    assert is_held(waits, "t")
    assert not is_held(waits, "another")
    assert waits_for_another(waits, "another")
    again = UserRecord.decoded(called_off(waits))
    assert (again.standing, again.token) == (Standing.HELD, "")
    assert (again.position, again.reason) == (held.position, held.reason)
    assert called_off(waiting(None, "t")) == b""


def test_users_whose_records_cant_be_read_stand_as_usual() -> None:
    kept = {"ada": b"?", "bob": UserRecord(Standing.WAITING, AT, token="t").encoded()}

    assert awaited_by(user_records(kept), "t") == {"bob"}


@pytest.mark.parametrize(
    ("entry", "is_done"),
    [
        ((10, 99), True),
        ((11, 3), True),
        ((11, 4), False),
        ((11, 5), True),
        ((11, 6), True),
        ((11, 7), False),
        ((11, 100), True),
        ((12, 0), True),
        ((12, 1), False),
    ],
)
def test_what_the_broker_says_is_acknowledged_is(entry: tuple[int, int], is_done: bool) -> None:
    cursor = {
        "markDeletePosition": "11:3",
        "individuallyDeletedMessages": "[(11:99..12:0],(11:4..11:6]]",
    }

    assert Acknowledged.of(cursor).has(EntryId(*entry)) is is_done


def test_of_a_new_subscription_nothing_is_acknowledged() -> None:
    cursor = {"markDeletePosition": "11:-1", "individuallyDeletedMessages": "[]"}

    assert not Acknowledged.of(cursor).has(EntryId(11, 0))


def test_numbers_fit_what_the_broker_takes() -> None:
    far = letter("ada", (0, 49_999))
    (one,) = plan_of([far])

    assert isinstance(one.number, Number)
    assert 0 < one.number.value < one.end_number < 2**63


async def test_no_more_is_done_in_a_second_than_may_be() -> None:
    pacing = Pacing(100.0)
    loop = asyncio.get_running_loop()
    began = loop.time()

    for _ in range(5):
        await pacing.turn(5)

    # The first turn is at once, so the fifth is behind twenty.
    assert 0.2 <= loop.time() - began < 2
    assert [Pacing(rate).at_most(500) for rate in (None, 0.5, 100.0, 1e6)] == [500, 1, 2, 500]


@pytest.mark.parametrize(
    ("rate", "read_a_second"), [(None, 15_000), (1e6, 15_000), (700.0, 7_000), (5.0, 2_000)]
)
def test_a_log_is_read_as_gently_as_the_rate_asks_for(
    rate: float | None, read_a_second: int
) -> None:
    in_a_turn = Pacing(rate).of_reading(partitions=3).at_most(10_000)

    assert in_a_turn * 50 == read_a_second
