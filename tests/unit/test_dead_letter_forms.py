"""How dead letters are read, chosen, and written to a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from keylane.broker import OutgoingMessage
from keylane.errors import ContractError
from keylane.names import WHOLE, partition_topic
from keylane.redriven import ORIGIN_MESSAGE_ID, REAL_TOPIC
from operate.cli import app
from operate.deadletters.filters import Filters, is_status
from operate.deadletters.groups import Groups
from operate.deadletters.letter import UNKNOWN, DeadLetter, number_of
from operate.deadletters.line import line_of, message_of
from operate.exits import BAD_DATA, USAGE, exit_code_of
from operate.when import age, moment_of
from tests.commandline import alone
from tests.deadletters import Letter
from tests.messages import BrokenMessage, Message

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")

TOPIC = "events"
NOW_MS = 1_800_000_000_000


def read(sent: OutgoingMessage, entry: int = 0) -> DeadLetter:
    message = Message(
        sent.key,
        sent.value,
        dict(sent.properties),
        position=(7, entry, -1),
        event_time_ms=sent.event_time_ms,
    )
    return DeadLetter.of(message, WHOLE, TOPIC)


def test_a_dead_letter_says_what_became_of_the_event() -> None:
    sent = Letter("ada", 3, entry=9, answer="no").message(TOPIC)

    found = read(sent, entry=4)

    assert (found.user, found.id, found.reason, found.attempts) == (
        "ada",
        "ada-3",
        "max-attempts",
        8,
    )
    assert (found.status, found.at_ms) == (503, 1_700_000_000_000)
    assert found.place.text == "7:4"
    partition = Letter("ada", 3, entry=9).partition
    assert found.origin == (partition, (1_000_000 + partition, 9, -1))


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {ORIGIN_MESSAGE_ID: "?"},
        {ORIGIN_MESSAGE_ID: "1:2:-1"},
        {ORIGIN_MESSAGE_ID: "1:2:0", REAL_TOPIC: partition_topic("others", 0)},
        {ORIGIN_MESSAGE_ID: "1:2:0", REAL_TOPIC: partition_topic(TOPIC, 1)},
    ],
)
def test_one_of_another_program_has_its_own_place_for_a_number(properties: dict[str, str]) -> None:
    found = read(OutgoingMessage("ada", b"?", properties), entry=4)

    assert found.origin is None
    assert (found.reason, found.attempts, found.status) == (UNKNOWN, 0, None)
    assert number_of(found.origin, found.place).publisher == "foreign"


def test_one_with_unreadable_properties_is_a_dead_letter_all_the_same() -> None:
    found = DeadLetter.of(BrokenMessage("ada", b"?", {}), WHOLE, TOPIC)

    assert (found.user, found.reason) == ("ada", UNKNOWN)


ADA = read(Letter("ada", 1, entry=1, at_ms=NOW_MS).message(TOPIC))


@pytest.mark.parametrize(
    ("filters", "does_match"),
    [
        (Filters(), True),
        (Filters(user=("bob", "ada")), True),
        (Filters(user=("bob",)), False),
        (Filters(user=("ada",), reason=("held",)), False),
        (Filters(status=("503",)), True),
        (Filters(status=("5xx",)), True),
        (Filters(status=("4xx", "none")), False),
        (Filters(type=("keylane.event",), id=("ada-1",)), True),
        (Filters(type=("order",)), False),
        (Filters(since_ms=NOW_MS, until_ms=NOW_MS + 1), True),
        (Filters(since_ms=NOW_MS + 1), False),
        (Filters(until_ms=NOW_MS), False),
    ],
)
def test_all_filters_have_to_hold_each_by_one_of_its_values(
    filters: Filters, does_match: bool
) -> None:
    assert filters.match(ADA) is does_match
    assert Filters.of(orjson.loads(orjson.dumps(filters.as_data()))) == filters


def test_no_answer_is_a_status_of_its_own() -> None:
    unanswered = dataclasses.replace(ADA, status=None)

    assert Filters(status=("none",)).match(unanswered)
    assert not Filters(status=("5xx",)).match(unanswered)
    assert [is_status(one) for one in ("503", "4xx", "none", "6xx", "50", "")] == [
        *(True, True, True, False, False, False)
    ]


def test_filters_that_are_not_known_are_refused() -> None:
    with pytest.raises(ContractError):
        Filters.of({"colour": ["red"]})


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2h", NOW_MS - 7_200_000),
        ("90s", NOW_MS - 90_000),
        ("1w", NOW_MS - 604_800_000),
        ("2027-01-15T08:00:00Z", NOW_MS),
        ("2027-01-15T10:00:00.5+02:00", NOW_MS + 500),
    ],
)
def test_moments_are_written_as_times_or_as_spans_before_now(text: str, ms: int) -> None:
    assert moment_of(text, NOW_MS) == ms


@pytest.mark.parametrize("text", ["", "2x", "h", "yesterday"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        moment_of(text, NOW_MS)


def test_ages_are_rough() -> None:
    assert [age(s * 1000) for s in (-1, 119, 120, 7200, 172_800)] == [
        "0s",
        "119s",
        "2m",
        "2h",
        "2d",
    ]


def test_groups_know_their_ages_and_the_largest_comes_first() -> None:
    groups = Groups()
    for at_ms, user in ((5, "ada"), (3, "bob"), (9, "ada")):
        groups.add(dataclasses.replace(ADA, user=user, at_ms=at_ms))

    assert [(g.user, g.count, g.oldest_ms, g.newest_ms) for g in groups.largest()] == [
        ("ada", 2, 5, 9),
        ("bob", 1, 3, 3),
    ]
    assert (groups.letters, groups.users, len(groups.largest(1))) == (3, {"ada", "bob"}, 1)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b'{"a":  1.0}', b' "x"', b"NaN", b'"\\ud800"', b"1\n", b"\t1", b"1E5"]),
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.text(max_size=5),
)
def test_every_byte_survives_a_file(payload: bytes, properties: dict[str, str], key: str) -> None:
    message = Message(key, payload, properties, position=(7, 4, -1), event_time_ms=12)

    line = line_of(DeadLetter.of(message, WHOLE, TOPIC))

    assert line.count(b"\n") == 1
    assert message_of(line) == OutgoingMessage(key, payload, properties, 12)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b'{"key": 1, "payload": 1, "properties": {}}',
        b'{"key": "a", "payload": 1}',
        b'{"key": "a", "properties": {}}',
        b'{"key": "a", "payload": 1, "payload_base64": "", "properties": {}}',
        b'{"key": "a", "payload_base64": "?", "properties": {}}',
        b'{"key": "a", "payload": 1, "properties": {"x": 1}}',
        b'{"key": "a", "payload": 1, "properties": {}, "event_time_ms": -1}',
        b'{"key": "\xff", "payload": 1, "properties": {}}',
    ],
)
def test_a_line_that_is_no_dead_letter_is_refused(line: bytes) -> None:
    with pytest.raises(ContractError):
        message_of(line)


# The commands, as far as they need no broker


def keylane(*words: str) -> Result:
    return CliRunner().invoke(app, ["dlq", *words])


def test_of_a_file_with_bad_lines_each_is_named_and_nothing_is_connected(tmp_path: Path) -> None:
    file = tmp_path / "crm.jsonl"
    good = '{"key": "ada", "payload": 1, "properties": {}}'
    lacking = '{"key": "ada", "properties": {}}'
    file.write_text(f"{good}\n{{\n\n{good}\n{lacking}\n{lacking}")

    refused = keylane("import", "crm", str(file)).exception

    assert isinstance(refused, ContractError)
    assert exit_code_of(refused) == BAD_DATA
    told = str(refused)
    assert all(f"line {number}: " in told for number in (2, 5, 6))
    assert "line 1" not in told
    assert "line 4" not in told
    assert "nothing was done" in told


@pytest.mark.parametrize("words", [["purge", "crm"], ["release", "crm", "--user", "ada"]])
def test_without_a_terminal_what_can_not_be_undone_needs_yes(words: list[str]) -> None:
    refused = keylane(*words)

    assert refused.exit_code == USAGE
    assert "--yes" in refused.output


@pytest.mark.parametrize(
    "words",
    [
        ["list", "crm", "--status", "6xx"],
        ["list", "crm", "--since", "yesterday"],
        ["redrive", "crm", "--rate", "0"],
        ["import", "crm", "no-such-file.jsonl"],
        ["export", "crm", "."],
    ],
)
def test_what_cant_be_understood_is_refused_before_anything_is_done(words: list[str]) -> None:
    assert keylane(*words).exit_code == USAGE
