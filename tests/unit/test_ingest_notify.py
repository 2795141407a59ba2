from __future__ import annotations

import json
import uuid
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.arrival import Arrival
from ingest.decode import Limits
from ingest.ids import new_event_ids
from ingest.notify import read_notification
from ingest.refusals import InvalidEvents, MalformedBody, PayloadsTooLarge
from keylane.errors import KeylaneError
from keylane.event import Event, rfc3339

LIMITS = Limits(max_events=100, max_payload_bytes=1_000_000, max_user_characters=16)
NOW_MS = 1_769_860_800_123
TRACE = {"correlationid": "c-1"}
ARRIVAL = Arrival(NOW_MS, partial(new_event_ids, now_ms=NOW_MS), TRACE, "192.0.2.7")


def read(body: bytes | dict[str, Any], arrival: Arrival = ARRIVAL) -> Event:
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    [event] = read_notification(sent, LIMITS, arrival)
    return event


def complaints(body: bytes | dict[str, Any], arrival: Arrival = ARRIVAL) -> list[tuple[int, str]]:
    with pytest.raises(InvalidEvents) as refused:
        read(body, arrival)
    return [(error.index, error.field) for error in refused.value.errors]


def test_a_text_becomes_an_event_of_the_sender_s_address() -> None:
    event = read(b'{ "message" :  "Hello" }')

    assert (event.user, event.payload) == ("192.0.2.7", b'{"message": "Hello"}')
    assert (event.type, event.source) == ("keylane.notification", "keylane")
    assert (event.time, event.accepted_at_ms) == (rfc3339(NOW_MS), NOW_MS)
    assert event.extensions == TRACE
    assert uuid.UUID(event.id).version == 7


def test_user_and_id_are_taken_if_given() -> None:
    event = read({"message": "Hello", "user": "user-1", "id": "n-1"})

    assert (event.user, event.id, event.payload) == ("user-1", "n-1", b'{"message": "Hello"}')


def test_null_stands_for_an_absent_user_and_id() -> None:
    event = read({"message": "Hello", "user": None, "id": None})

    assert event.user == "192.0.2.7"
    assert event.id


@pytest.mark.parametrize(
    "message", [b'"\\u0041\\/"', '"ä 😀"'.encode(), b'"\\ud83d\\ude00\\u0000"']
)
def test_the_text_is_kept_byte_for_byte(message: bytes) -> None:
    assert read(b'{"message":%b}' % message).payload == b'{"message": %b}' % message


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": None}, "message"),
        ({"message": ["Hello"]}, "message"),
        ({"message": "x" * 100_001}, "message"),
        ({"message": "\ud800"}, "message"),
        ({"message": "Hello", "user": ""}, "user"),
        ({"message": "Hello", "user": "u" * 17}, "user"),
        ({"message": "Hello", "user": "u" * 257}, "user"),
        ({"message": "Hello", "user": 7}, "user"),
        ({"message": "Hello", "id": "a\nb"}, "id"),
        ({"message": "Hello", "id": "i" * 257}, "id"),
        ({"message": "Hello", "colour": "red"}, "colour"),
    ],
    ids=lambda value: f"{repr(value)[:40]} {len(repr(value))}",
)
def test_a_bad_field_is_named(body: dict[str, Any], field: str) -> None:
    assert complaints(body) == [(0, field)]


def test_everything_that_is_wrong_is_named() -> None:
    assert complaints({"user": 1, "id": "", "mesage": "Hello"}) == [
        (0, "message"),
        (0, "user"),
        (0, "id"),
        (0, "mesage"),
    ]


def test_an_unknown_field_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(InvalidEvents) as refused:
        read({"message": "Hello", "UserID": "u", "nothing": 1, "mesage": 1})

    assert [error.detail for error in refused.value.errors] == [
        "is no field of a notification; did you mean user?",
        "is no field of a notification; those are message, user and id",
        "is no field of a notification; did you mean message?",
    ]


@pytest.mark.parametrize("body", [b"[]", b'[{"message": "Hello"}]', b'"Hello"', b"null"])
def test_a_body_is_one_object(body: bytes) -> None:
    assert complaints(body) == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"message": "\xff"}', b'{"message": NaN}', b'{"message": "a"}x']
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        read(body)


def test_a_text_may_be_as_long_as_the_limit() -> None:
    assert len(read({"message": "x" * 100_000}).payload) == 100_015


def test_a_sender_without_an_address_has_to_name_a_user() -> None:
    nowhere = Arrival(NOW_MS, ARRIVAL.new_ids, {})

    assert complaints({"message": "Hello"}, nowhere) == [(0, "user")]
    assert read({"message": "Hello", "user": "u"}, nowhere).user == "u"


def test_a_payload_that_is_too_large_is_named() -> None:
    with pytest.raises(PayloadsTooLarge) as refused:
        read_notification(b'{"message": "Hello"}', Limits(1, 10), ARRIVAL)

    assert [(error.index, error.field) for error in refused.value.errors] == [(0, "message")]


@given(st.text(min_size=1), st.booleans())
@settings(deadline=None)
def test_any_text_is_kept_byte_for_byte(text: str, is_ascii: bool) -> None:
    message = json.dumps(text, ensure_ascii=is_ascii).encode()

    assert read(b'{"user":"u","message":%b }' % message).payload == b'{"message": %b}' % message


@given(st.binary() | st.text().map(str.encode))
@settings(deadline=None)
def test_of_random_bytes_only_refusals_come(body: bytes) -> None:
    for form in (b"%b", b'{"message":%b}', b'{"message":"%b"}', b'{"message":"a","user":%b}'):
        try:
            read(form % body)
        except KeylaneError:
            continue
