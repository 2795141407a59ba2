"""Which events a replay takes, what is kept of it, and when it goes on with itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from keylane.controlrecord import NOTHING
from keylane.errors import ContractError
from keylane.event import from_message, rfc3339
from keylane.moment import moment_ms
from keylane.redriven import REPLAY, origin_of
from operate.cli import app
from operate.replaying.plan import (
    KEPT_REPLAYS,
    Count,
    Part,
    Replay,
    Tally,
    new_id,
    readable,
    to_forget,
    words_of,
)
from operate.replaying.window import SLACK_MS, Wanted
from operate.when import as_asked, moment_of
from tests.commandline import alone
from tests.messages import BrokenMessage, Message

__all__ = ["alone"]

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def published(at_ms: int, key: str = "ana", **properties: str) -> Message:
    return Message(key, b"{}", properties, (7, at_ms % 1000, -1), publish_time_ms=at_ms)


def replay(**changes: object) -> Replay:
    count = Count((Part(0, 3, (7, 5, -1)), Part(2, 1, (9, 0, 4))), 2, 1, 0)
    made = Replay(
        *("20270115T080000-abc", Wanted(NOW_MS - HOUR_MS, NOW_MS, "ana"), ("1h", "")),
        *(False, count, rfc3339(NOW_MS)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# Times


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2h", NOW_MS - 2 * HOUR_MS),
        ("30m", NOW_MS - HOUR_MS // 2),
        ("45s", NOW_MS - 45_000),
        (" 1D12h ", NOW_MS - 36 * HOUR_MS),
        ("99999d", 0),
        ("2026-01-31T06:00:00Z", 1_769_839_200_000),
        ("2026-01-31T07:00:00.250+01:00", 1_769_839_200_250),
        ("2026-01-31t06:00:00", 1_769_839_200_000),
        ("2026-01-31", 1_769_817_600_000),
    ],
)
def test_a_time_is_so_long_ago_or_a_moment_which_is_in_utc_without_a_zone(
    text: str, ms: int
) -> None:
    assert moment_of(text, NOW_MS) == ms


@pytest.mark.parametrize("text", ["", "2", "2y", "h", "-2h", "yesterday", "2026-13-01"])
def test_what_is_no_time_is_told_with_what_would_be_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time: write 2h, 30m, 3d or 1w"):
        moment_of(text, NOW_MS)


@pytest.mark.parametrize("ms", [0, 1, NOW_MS, NOW_MS + 999])
def test_a_moment_that_is_written_is_read_back(ms: int) -> None:
    assert moment_ms(rfc3339(ms)) == ms


def test_the_same_time_is_known_again_however_it_is_written() -> None:
    assert as_asked("2026-01-31T07:00:00+01:00") == as_asked("2026-01-31T06:00:00.000Z")
    assert as_asked(" 2H") == "2h"
    assert words_of("2h", None) == ("2h", "")


# The window


@pytest.mark.parametrize(
    ("at_ms", "is_wanted"), [(-1, False), (0, True), (9, True), (10, False), (11, False)]
)
def test_the_window_has_its_first_moment_and_not_its_last(at_ms: int, is_wanted: bool) -> None:
    wanted = Wanted(NOW_MS, NOW_MS + 10)

    assert (wanted.properties_of(published(NOW_MS + at_ms)) is not None) == is_wanted


def test_reading_goes_beyond_the_window_because_publishers_clocks_differ() -> None:
    wanted = Wanted(NOW_MS, NOW_MS + 10)

    assert wanted.read_from_ms == NOW_MS - SLACK_MS
    assert not wanted.is_past(published(NOW_MS + 9 + SLACK_MS))
    assert wanted.is_past(published(NOW_MS + 10 + SLACK_MS))
    assert Wanted(1, 2).read_from_ms == 0


@pytest.mark.parametrize(
    ("wanted", "users"),
    [
        (Wanted(0, NOW_MS + 1), ["ana", "bob", "ana", "kim"]),
        (Wanted(0, NOW_MS + 1, user="ana"), ["ana", "ana"]),
        (Wanted(0, NOW_MS + 1, type="paid"), ["ana", "bob"]),
        (Wanted(0, NOW_MS + 1, user="ana", type="paid"), ["ana"]),
        # As an event without a type is delivered.
        (Wanted(0, NOW_MS + 1, type="keylane.event"), ["ana", "kim"]),
    ],
)
def test_events_are_chosen_by_user_and_type(wanted: Wanted, users: list[str]) -> None:
    messages = [
        published(NOW_MS, "ana", ce_type="paid"),
        published(NOW_MS, "bob", ce_type="paid"),
        published(NOW_MS, "ana"),
        published(NOW_MS, "kim", ce_type=""),
    ]

    assert [m.key for m in messages if wanted.properties_of(m) is not None] == users


# Counting


def test_events_users_and_what_is_odd_about_them_are_counted() -> None:
    wanted = Wanted(NOW_MS, NOW_MS + 100)
    tallies = [Tally(wanted, n) for n in range(3)]
    for at_ms, key in ((0, "ana"), (1, ""), (2, "ana"), (200, "eve")):
        tallies[0].add(published(NOW_MS + at_ms, key))
    tallies[2].add(published(NOW_MS, "bob"))
    tallies[2].add(published(NOW_MS + 1, "ana"))
    tallies[2].add(BrokenMessage("bob", publish_time_ms=NOW_MS + 2))

    count = Count.of(tallies, None)

    assert count.parts == (Part(0, 3, (7, 2, -1)), Part(2, 2, (7, 1, -1)))
    # Of whoever is in two partitions the topic has grown meanwhile.
    assert (count.events, count.users, count.without_key, count.unreadable) == (5, 2, 1, 1)


# Copies


def test_a_copy_has_the_identity_of_the_event() -> None:
    # As another producer sends it: without id and without times of its own.
    bare = published(NOW_MS + 3, "ana", traceparent="00-1")
    original = replace(bare, position=(7, 5, 2), event_time_ms=0)
    made = replay()

    copy = made.copy_of(original, original.properties(), "events", 1)

    again = Message(copy.key, copy.value, dict(copy.properties), event_time_ms=copy.event_time_ms)
    assert from_message(again, -1) == from_message(original, 1)
    assert copy.properties[REPLAY] == made.id
    assert origin_of(copy.properties) == (1, (7, 5, 2))
    own_id = published(NOW_MS, ce_id="event-1")
    assert made.copy_of(own_id, own_id.properties(), "events", 1).properties["ce_id"] == "event-1"


# The record


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"finished": rfc3339(NOW_MS), "instead": True, "pause": "token"},
        {"wanted": Wanted(0, 1, None, "paid")},
    ],
)
def test_a_record_is_read_back(changes: dict[str, object]) -> None:
    made = replay(**changes)

    assert Replay.decoded(made.encoded()) == made


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"from": "x"}', b"\xff", b"7"])
def test_what_is_no_record_is_told_and_passed_over(value: bytes) -> None:
    with pytest.raises(ContractError):
        Replay.decoded(value)
    assert readable({"a": value, "b": replay().encoded()}) == {"b": replay()}
    assert readable({"a": NOTHING}) == {}


def test_the_same_command_goes_on_with_what_it_began() -> None:
    later = Wanted(NOW_MS, NOW_MS + HOUR_MS, "ana")
    made = replay()

    assert made.is_asked_again(later, ("1h", ""), instead=False)
    assert not made.is_asked_again(later, ("2h", ""), instead=False)
    assert not made.is_asked_again(later, ("1h", "1m"), instead=False)
    assert not made.is_asked_again(later, ("1h", ""), instead=True)
    assert not made.is_asked_again(replace(later, user="bob"), ("1h", ""), instead=False)
    assert not made.is_asked_again(replace(later, type="paid"), ("1h", ""), instead=False)
    assert not made.done("now").is_asked_again(later, ("1h", ""), instead=False)


def test_what_was_done_long_ago_is_forgotten_and_what_is_not_done_never() -> None:
    many = {f"{n:03}": replay(finished="then") for n in range(1, KEPT_REPLAYS + 3)}

    assert to_forget({"000": replay(), **many}) == ["001", "002"]


def test_ids_are_sorted_by_time() -> None:
    assert new_id(NOW_MS).startswith("20270115T080000-")
    assert new_id(NOW_MS) < new_id(NOW_MS + 1_000)


# The command


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "say since when"),
        ("--from yesterday", "is no time"),
        ("--from 1h --to 2h", "is not before --to"),
        ("--from 2999-01-01", "still to come"),
        ("--from 1h --list", "--list and --from don't go together"),
        ("--resume a --cancel b", "--resume and --cancel don't go together"),
        ("--from 1h --rate 0", "--rate"),
        ("--from 1h --user=", "is empty"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(words: str, said: str) -> None:
    done = CliRunner().invoke(app, ["replay", "crm", *words.split()], env={"COLUMNS": "200"})

    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
