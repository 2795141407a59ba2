from __future__ import annotations

import json
import uuid
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.arrival import Arrival
from ingest.decode import Limits, decode
from ingest.ids import new_event_ids
from ingest.refusals import (
    InvalidEvents,
    MalformedBody,
    PayloadsTooLarge,
    TooManyEvents,
)
from keylane.errors import KeylaneError
from keylane.event import Event, rfc3339

LIMITS = Limits(max_events=100, max_payload_bytes=1_000)
NOW_MS = 1_769_860_800_123
ARRIVAL = Arrival(NOW_MS, partial(new_event_ids, now_ms=NOW_MS), {})


def read(body: bytes | str | list[Any] | dict[str, Any], limits: Limits = LIMITS) -> list[Event]:
    if isinstance(body, list | dict):
        body = json.dumps(body)
    return decode(body.encode() if isinstance(body, str) else body, limits, ARRIVAL)


def complaints(body: bytes | str | list[Any] | dict[str, Any]) -> list[tuple[int, str]]:
    with pytest.raises(InvalidEvents) as refused:
        read(body)
    return [(error.index, error.field) for error in refused.value.errors]


def test_an_event_needs_a_user_and_a_payload_only() -> None:
    [event] = read('[{"UserID": "user-1", "Payload": {"a": 1}}]')

    assert (event.user, event.payload) == ("user-1", b'{"a": 1}')
    assert uuid.UUID(event.id).version == 7
    assert (event.type, event.source) == ("keylane.event", "keylane")
    assert (event.time, event.accepted_at_ms) == (rfc3339(NOW_MS), NOW_MS)


def test_each_event_gets_an_id_of_its_own_that_holds_the_moment() -> None:
    ids = [uuid.UUID(event.id) for event in read([{"UserID": "u", "Payload": 1}] * 100)]

    assert len(set(ids)) == 100
    for event_id in ids:
        assert (event_id.version, event_id.variant) == (7, uuid.RFC_4122)
        assert event_id.int >> 80 == NOW_MS


def test_one_object_is_one_event() -> None:
    assert [event.user for event in read('{"UserID": "u", "Payload": 1}')] == ["u"]


def test_everything_a_sender_gives_is_kept() -> None:
    [event] = read(
        {
            "UserID": "u",
            "Payload": None,
            "ID": "order-18",
            "Type": "order.created",
            "Source": "https://shop.example/orders?a=%20b",
            "Time": "2026-01-31t12:00:00.123456789+01:00",
        }
    )

    assert (event.id, event.type) == ("order-18", "order.created")
    assert event.source == "https://shop.example/orders?a=%20b"
    assert event.time == "2026-01-31T12:00:00.123456789+01:00"


def test_null_stands_for_an_absent_optional_field() -> None:
    [event] = read('{"UserID":"u","Payload":1,"ID":null,"Type":null,"Source":null,"Time":null}')

    assert event.id
    assert event.type == "keylane.event"


def test_events_keep_the_order_of_the_array() -> None:
    users = [f"user-{n % 7}" for n in range(50)]

    assert [e.user for e in read([{"UserID": u, "Payload": 0} for u in users])] == users


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"-0",
        b"1.0e5",
        b"1e999",
        b"1" * 900,
        b"123456789012345678901234567890.000",
        b'"\\u0041\\/\\ud83d\\ude00"',
        '"ä 😀"'.encode(),
        b'{"b" : 1,\n\t"a":[ 1,2 ], "b":2}',
        b"[]",
        b'""',
        b"[" * 100 + b"]" * 100,
        b'"\\u0000"',
    ],
)
def test_a_payload_is_kept_byte_for_byte(payload: bytes) -> None:
    [event] = read(b'[ {"UserID":"u", "Payload" :  \r\n' + payload + b" \t} ] ")

    assert event.payload == payload


@pytest.mark.parametrize("user", ["u", "ä" * 256, "😀" * 256, "a b/c%\n\x00", " "])
def test_a_user_is_any_text_of_1_to_256_characters(user: str) -> None:
    assert read({"UserID": user, "Payload": 0})[0].user == user


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b'[{"UserID":"u","Payload":1},]',
        b'[{"UserID":"u","Payload":1}] x',
        b'[{"UserID":"u","Payload":NaN}]',
        b'[{"UserID":"u","Payload":[-Infinity]}]',
        b'[{"UserID":"u","Payload":NaN},{"UserID":""}]',
        b'[{"UserID":"u","Payload":01}]',
        b"[{\"UserID\":'u','Payload':1}]",
        b'[{"UserID":"u","Payload":"a\nb"}]',
        b'[{"UserID":"u","Payload":"\\x"}]',
        b'[{"UserID":"u","Payload":1}]\x00',
        b'\xef\xbb\xbf[{"UserID":"u","Payload":1}]',
        b'[{"UserID":"\xff","Payload":1}]',
        b'[{"UserID":"u","Payload":"\xff"}]',
        b'[{"UserID":"u","Payload":"\xed\xa0\x80"}]',
        b'[{"UserID":"u","Payload":1,"\xff":1}]',
        '[{"UserID":"u","Payload":1}]'.encode("utf-16"),
        b'[{"UserID":"u","Payload":' + b"[" * 200_000 + b"]" * 200_000 + b"}]",
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
    ids=repr,
)
def test_what_is_no_readable_json_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        read(body)


def test_the_first_bad_byte_is_named() -> None:
    with pytest.raises(MalformedBody, match="byte 16"):
        read(b'[{"UserID":"user\xff","Payload":1}]')


@pytest.mark.parametrize("body", ["42", "null", '"text"', "true", "[]"])
def test_a_body_is_an_array_with_events_or_an_event(body: str) -> None:
    assert complaints(body) == []


@pytest.mark.parametrize(
    ("element", "field"),
    [
        (1, ""),
        (None, ""),
        ([], ""),
        ({"Payload": 1}, "UserID"),
        ({"UserID": "u"}, "Payload"),
        ({"UserID": "", "Payload": 1}, "UserID"),
        ({"UserID": "u" * 257, "Payload": 1}, "UserID"),
        ({"UserID": 7, "Payload": 1}, "UserID"),
        ({"UserID": None, "Payload": 1}, "UserID"),
        ({"UserID": "\ud800", "Payload": 1}, "UserID"),
        ({"UserID": "u", "Payload": {"a": ["\ud800"]}}, "Payload"),
        ({"UserID": "u", "Payload": {"\udc00": 1}}, "Payload"),
        ({"UserID": "u", "Payload": 1, "ID": ""}, "ID"),
        ({"UserID": "u", "Payload": 1, "ID": 5}, "ID"),
        ({"UserID": "u", "Payload": 1, "ID": "i" * 257}, "ID"),
        ({"UserID": "u", "Payload": 1, "ID": "a\r\nb: c"}, "ID"),
        ({"UserID": "u", "Payload": 1, "ID": "a\n"}, "ID"),
        ({"UserID": "u", "Payload": 1, "ID": "\ud800"}, "ID"),
        ({"UserID": "u", "Payload": 1, "Type": "a\x7f"}, "Type"),
        ({"UserID": "u", "Payload": 1, "Type": "\U0001ffff"}, "Type"),
        ({"UserID": "u", "Payload": 1, "Type": ""}, "Type"),
        ({"UserID": "u", "Payload": 1, "Source": "not a uri"}, "Source"),
        ({"UserID": "u", "Payload": 1, "Source": "caf\u00e9"}, "Source"),
        ({"UserID": "u", "Payload": 1, "Source": "%zz"}, "Source"),
        ({"UserID": "u", "Payload": 1, "Source": "a" * 1025}, "Source"),
        ({"UserID": "u", "Payload": 1, "Time": "yesterday"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": "2026-04-31T12:00:00Z"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": "2026-01-31T12:00:00"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": "2026-01-31 12:00:00Z"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": "2026-01-31T12:00:60Z"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": "2026-01-31T12:00:00+24:00"}, "Time"),
        ({"UserID": "u", "Payload": 1, "Time": 1_769_860_800}, "Time"),
        ({"UserID": "u", "Payload": 1, "Colour": "red"}, "Colour"),
        ({"UserID": "u", "Payload": 1, "": 0}, ""),
        ({"UserID": "u", "Payload": 1, "\ud800": 0}, "\\ud800"),
    ],
    ids=repr,
)
def test_a_bad_element_is_named_by_index_and_field(element: object, field: str) -> None:
    good = {"UserID": "good", "Payload": 1}

    assert complaints([good, element, good]) == [(1, field)]


def test_every_bad_element_is_named() -> None:
    body = [
        {"UserID": "", "Payload": 1, "Tipe": 2},
        {"UserID": "u", "Payload": 1},
        "event",
        {"Time": "never"},
    ]

    assert complaints(body) == [
        (0, "UserID"),
        (0, "Tipe"),
        (2, ""),
        (3, "UserID"),
        (3, "Payload"),
        (3, "Time"),
    ]


def test_an_unknown_field_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(InvalidEvents) as refused:
        read('{"userId": "u", "Payload": 1}')

    assert {e.detail for e in refused.value.errors if e.field == "userId"} == {
        "is no field of an event; did you mean UserID?"
    }


def test_one_request_holds_an_id_once() -> None:
    once = {"UserID": "u", "Payload": 1, "ID": "a"}

    assert complaints([once, {**once, "ID": "b"}, once]) == [(2, "ID")]


def test_a_repeated_id_is_named_beside_other_mistakes() -> None:
    once = {"UserID": "u", "Payload": 1, "ID": "a"}

    assert complaints([once, {"UserID": "u"}, once]) == [(1, "Payload"), (2, "ID")]


def test_of_a_repeated_field_the_last_counts() -> None:
    assert read('{"UserID": "a", "Payload": 1, "UserID": "b"}')[0].user == "b"


def test_every_payload_that_is_too_large_is_named() -> None:
    small, large = {"UserID": "u", "Payload": "x"}, {"UserID": "u", "Payload": "x" * 999}

    with pytest.raises(PayloadsTooLarge) as refused:
        read([large, small, large])

    assert [e.index for e in refused.value.errors] == [0, 2]


def test_a_payload_may_be_as_large_as_the_limit() -> None:
    assert len(read({"UserID": "u", "Payload": "x" * 998})[0].payload) == 1_000


@pytest.mark.parametrize("element", [{"UserID": "u", "Payload": 1}, {}])
def test_a_request_may_hold_so_many_events_and_no_more(element: dict[str, Any]) -> None:
    with pytest.raises(TooManyEvents):
        read([element] * 101)


def test_a_request_may_hold_as_many_events_as_the_limit() -> None:
    assert len(read([{"UserID": "u", "Payload": 1}] * 100)) == 100


def test_a_number_of_any_length_does_not_hide_what_is_wrong() -> None:
    body = '[{"UserID": "u", "Payload": ' + "9" * 5_000 + '}, {"UserID": "u"}]'

    assert complaints(body) == [(1, "Payload")]


def test_a_million_fields_are_not_answered_one_by_one() -> None:
    many = {f"{n}": 1 for n in range(300_000)}

    fields = complaints([many, {"Payload": 1}])

    assert fields[:3] == [(0, "UserID"), (0, "Payload"), (0, "0")]
    assert fields[20:] == [(1, "UserID")]


def test_the_nearest_field_is_looked_for_so_many_times_only() -> None:
    near = {"UserID": "u", "Payload": 1, **{f"Tipe{n}": 1 for n in range(15)}}

    with pytest.raises(InvalidEvents) as refused:
        read([near] * 100)

    guesses = ["did you mean Type?" in error.detail for error in refused.value.errors]
    assert len(guesses) == 1_500
    assert guesses[0]
    assert not guesses[-1]


def test_a_field_s_name_is_shown_shortened() -> None:
    [(_, field)] = complaints({"UserID": "u", "Payload": 1, "x" * 10_000: 1})

    assert field == "x" * 64


def test_extensions_are_given_to_every_event() -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    body = b'[{"UserID":"a","Payload":1},{"UserID":"b","Payload":1}]'

    arrival = Arrival(NOW_MS, ARRIVAL.new_ids, trace)
    assert [e.extensions for e in decode(body, LIMITS, arrival)] == [trace, trace]


def test_only_events_without_an_id_are_given_one_each() -> None:
    asked: list[int] = []

    def new_ids(count: int) -> list[str]:
        asked.append(count)
        return [f"new-{n}" for n in range(count)]

    plain, named = {"UserID": "u", "Payload": 1}, {"UserID": "u", "Payload": 1, "ID": "own"}
    body = json.dumps([plain, named, plain]).encode()

    ids = [event.id for event in decode(body, LIMITS, Arrival(NOW_MS, new_ids, {}))]

    decode(json.dumps(named).encode(), LIMITS, Arrival(NOW_MS, new_ids, {}))

    assert (ids, asked) == (["new-0", "own", "new-1"], [2])


@pytest.mark.parametrize("other", [{}, {"Colour": "red"}], ids=["readable", "explained"])
def test_a_user_longer_than_the_limit_is_named_beside_other_mistakes(
    other: dict[str, str],
) -> None:
    limits = Limits(max_events=100, max_payload_bytes=1_000, max_user_characters=8)
    long = {"UserID": "u" * 9, "Payload": 1}
    late = {"UserID": "u" * 8, "Payload": 1, "Time": "2026-02-30T00:00:00Z", **other}

    with pytest.raises(InvalidEvents) as refused:
        read([long, late], limits)

    named = [(e.index, e.field) for e in refused.value.errors]
    assert named == [(0, "UserID"), (1, "Time"), *((1, field) for field in other)]
    assert refused.value.errors[0].detail == "must have 1 to 8 characters, has 9"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_JSON, st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(deadline=None)
def test_any_payload_is_kept_byte_for_byte(
    value: object, is_ascii: bool, indent: int | str | None
) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent, allow_nan=True)
    payload = text.replace("Infinity", "1e999").encode()
    body = b'[{"UserID": "u", "Payload": %b}]' % payload

    assert read(body, Limits(100, 1_000_000))[0].payload == payload


@given(st.binary() | st.text().map(str.encode))
@settings(deadline=None)
def test_of_random_bytes_only_refusals_come(body: bytes) -> None:
    for form in (b"%b", b'[{"UserID":"u","Payload":%b}]', b'{"UserID":"%b","Payload":1}'):
        try:
            assert read(form % body)
        except KeylaneError:
            continue


def test_no_input_raises_what_is_not_a_refusal() -> None:
    seeds = [b'[{"UserID":"u","Payload":{"a":[1,"x"]},"ID":"i","Time":"2026-01-31T12:00:00Z"}]']
    for seed in seeds:
        for place in range(len(seed)):
            for byte in (0x00, 0x22, 0x5B, 0x5C, 0x7D, 0x80, 0xFF):
                for body in (
                    seed[:place] + bytes([byte]) + seed[place + 1 :],
                    seed[:place] + bytes([byte]) + seed[place:],
                    seed[:place],
                ):
                    try:
                        assert read(body)
                    except KeylaneError:
                        continue
