from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.arrival import Arrival
from ingest.cloudevents import read_batch, read_binary, read_structured
from ingest.decode import Limits
from ingest.ids import new_event_ids
from ingest.refusals import InvalidEvents, MalformedBody, PayloadsTooLarge, TooManyEvents
from keylane.errors import KeylaneError
from keylane.event import Event, rfc3339, to_message

LIMITS = Limits(max_events=100, max_payload_bytes=1_000, max_user_characters=64)
LOOSE = Limits(max_events=100, max_payload_bytes=10_000_000)
NOW_MS = 1_769_860_800_123
ARRIVAL = Arrival(NOW_MS, partial(new_event_ids, now_ms=NOW_MS), {})

LEAST = {"specversion": "1.0", "id": "i", "source": "/s", "type": "t", "subject": "u"}


def structured(
    sent: bytes | dict[str, Any], limits: Limits = LIMITS, arrival: Arrival = ARRIVAL
) -> Event:
    body = json.dumps(sent).encode() if isinstance(sent, dict) else sent
    [event] = read_structured(body, limits, arrival)
    return event


def batch(sent: bytes | list[Any], limits: Limits = LIMITS) -> list[Event]:
    return read_batch(
        json.dumps(sent).encode() if isinstance(sent, list) else sent, limits, ARRIVAL
    )


def binary(
    attributes: dict[str, str | bytes],
    body: bytes = b"",
    content_type: bytes | None = b"application/json",
    arrival: Arrival = ARRIVAL,
    limits: Limits = LIMITS,
) -> Event:
    headers = {
        f"ce-{name}".encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in attributes.items()
    }
    if content_type is not None:
        headers[b"content-type"] = content_type
    [event] = read_binary({b"host": b"x", **headers}, body, limits, arrival)
    return event


def text(member: bytes, value: bytes) -> bytes:
    """An event's JSON with one more member, as it is written."""
    return b'%b, "%b" : %b }' % (json.dumps(LEAST).encode()[:-1], member, value)


def named(refused: pytest.ExceptionInfo[InvalidEvents]) -> list[tuple[int, str]]:
    return [(error.index, error.field) for error in refused.value.errors]


def complaints(sent: bytes | dict[str, Any]) -> list[tuple[int, str]]:
    with pytest.raises(InvalidEvents) as refused:
        structured(sent)
    return named(refused)


def binary_complaints(*args: Any) -> list[tuple[int, str]]:
    with pytest.raises(InvalidEvents) as refused:
        binary(*args)
    return named(refused)


def test_the_least_event() -> None:
    event = structured({**LEAST, "data": {"a": 1}})

    assert (event.id, event.source, event.type, event.user) == ("i", "/s", "t", "u")
    assert (event.payload, event.content_type) == (b'{"a": 1}', "application/json")
    assert (event.time, event.accepted_at_ms) == (rfc3339(NOW_MS), NOW_MS)
    assert event.extensions == {"subject": "u"}


EVERYTHING = {
    **LEAST,
    "time": "2026-01-31t12:00:00.5+01:00",
    "datacontenttype": "application/vnd.shop+json; v=1",
    "dataschema": "https://shop.example/schema#1",
    "subject": "order 18",
    "partitionkey": "user-ä",
    "flag": "true",
    "count": "-5",
    "empty": "",
}


def test_everything_a_sender_gives_is_kept() -> None:
    event = structured({**EVERYTHING, "flag": True, "count": -5, "data": [1]})

    assert (event.user, event.time) == ("user-ä", "2026-01-31T12:00:00.5+01:00")
    assert event.content_type == "application/vnd.shop+json; v=1"
    assert event.extensions == {
        "dataschema": "https://shop.example/schema#1",
        "subject": "order 18",
        "partitionkey": "user-ä",
        "flag": "true",
        "count": "-5",
        "empty": "",
    }
    assert to_message(event).properties["ce_count"] == "-5"


def test_in_binary_mode_the_same_event_comes_out() -> None:
    headers: dict[str, str | bytes] = {
        name: quote(value, safe="")
        for name, value in EVERYTHING.items()
        if name != "datacontenttype"
    }

    assert binary(headers, b"[1]", b"application/vnd.shop+json; v=1") == structured(
        {**EVERYTHING, "data": [1]}
    )


def test_a_batch_keeps_its_order() -> None:
    events = batch([{**LEAST, "id": f"i{n}", "subject": f"u{n % 3}", "data": n} for n in range(20)])

    assert [(e.id, e.user, e.payload) for e in events] == [
        (f"i{n}", f"u{n % 3}", str(n).encode()) for n in range(20)
    ]


PAYLOADS = [
    b"null",
    b"-0",
    b"1.0e5",
    b"1e999",
    b"1" * 900,
    b'"\\u0041\\/\\ud83d\\ude00"',
    '"ä 😀"'.encode(),
    b'{"b" : 1,\n\t"a":[ 1,2 ], "b":2}',
    b"[" * 100 + b"]" * 100,
    b'"\\u0000"',
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: repr(payload[:30]))
def test_json_is_kept_byte_for_byte_in_every_mode(payload: bytes) -> None:
    sent = text(b"data", payload)

    assert structured(sent).payload == payload
    assert batch(b"[\r\n" + sent + b"]")[0].payload == payload
    assert binary({**LEAST}, b" " + payload + b"\n").payload == b" " + payload + b"\n"


@pytest.mark.parametrize("media_type", ["application/json", "text/JSON", "a/b+json;x=y", None])
def test_json_in_base64_is_kept_byte_for_byte(media_type: str | None) -> None:
    encoded = base64.b64encode(b' {"a": 1} ').decode()
    event = structured({**LEAST, "datacontenttype": media_type, "data_base64": encoded})

    assert event.payload == b' {"a": 1} '
    assert event.content_type == (media_type or "application/json")


@pytest.mark.parametrize("payload", [b"", b"\0\xff\xfe", b"not JSON"])
def test_any_bytes_are_kept_if_they_are_not_said_to_be_json(payload: bytes) -> None:
    encoded = base64.b64encode(payload).decode()
    sent = {**LEAST, "datacontenttype": "image/png", "data_base64": encoded}

    assert structured(sent).payload == payload
    assert binary({**LEAST}, payload, b"image/png").payload == payload


def test_text_that_is_not_json_is_stored_without_its_quotes() -> None:
    sent = {**LEAST, "datacontenttype": "text/xml", "data": '<wow much="ä\n😀"/>'}

    assert structured(sent).payload == '<wow much="ä\n😀"/>'.encode()


def test_a_string_that_is_json_keeps_its_quotes() -> None:
    assert structured({**LEAST, "data": '{"a": 1}'}).payload == b'"{\\"a\\": 1}"'


@pytest.mark.parametrize(
    "charset", ["charset=utf-8", 'charset="UTF-8"', "a=b; Charset = utf8; c=d", "xcharset=latin-1"]
)
def test_text_may_be_said_to_be_utf8(charset: str) -> None:
    sent = {**LEAST, "datacontenttype": f"text/plain; {charset}", "data": "ä"}

    assert structured(sent).payload == "ä".encode()


@pytest.mark.parametrize("charset", ["latin-1", '"latin-1"', "utf-16", "utf-8859"])
def test_text_of_another_charset_has_to_come_in_base64(charset: str) -> None:
    sent = {**LEAST, "datacontenttype": f"text/plain;charset={charset}"}

    assert complaints({**sent, "data": "ä"}) == [(0, "data")]
    assert structured({**sent, "data_base64": "5A=="}).payload == b"\xe4"


@pytest.mark.parametrize(
    ("media_type", "stored"),
    [
        ("application/json", b"null"),
        ("text/x+json", b"null"),
        ("text/plain", b""),
        (None, b"null"),
    ],
)
def test_absent_data_is_null_or_nothing(media_type: str | None, stored: bytes) -> None:
    content_type = media_type.encode() if media_type else None

    assert structured({**LEAST, "datacontenttype": media_type}).payload == stored
    event = binary({**LEAST}, b"", content_type)
    assert (event.payload, event.content_type) == (stored, media_type or "application/json")


def test_a_body_without_a_type_is_just_bytes() -> None:
    assert binary({**LEAST}, b"\xff", None).content_type == "application/octet-stream"


def test_null_stands_for_an_absent_attribute() -> None:
    sent = {**LEAST, "time": None, "partitionkey": None, "other": None, "data_base64": None}

    event = structured({**sent, "data": 1})

    assert (event.user, event.payload) == ("u", b"1")
    assert event.extensions == {"subject": "u"}
    assert complaints({**LEAST, "id": None}) == [(0, "id")]


def test_of_a_repeated_attribute_the_last_counts() -> None:
    assert structured(text(b"id", b'"j"')).id == "j"


TRACE = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "x=1"}


def test_extensions_of_the_request_are_given_to_every_event() -> None:
    arrival = Arrival(NOW_MS, ARRIVAL.new_ids, {**TRACE, "correlationid": "c"})

    for event in (structured({**LEAST}, arrival=arrival), binary({**LEAST}, arrival=arrival)):
        assert event.extensions == {**TRACE, "correlationid": "c", "subject": "u"}


def test_a_trace_of_the_event_wins_over_that_of_the_request() -> None:
    arrival = Arrival(NOW_MS, ARRIVAL.new_ids, {**TRACE, "correlationid": "c"})
    own = {"traceparent": "00-" + "c" * 32 + "-" + "d" * 16 + "-01"}

    for event in (
        structured({**LEAST, **own}, arrival=arrival),
        binary({**LEAST, **own}, arrival=arrival),
    ):
        assert event.extensions == {**own, "correlationid": "c", "subject": "u"}
    both = structured({**LEAST, **own, "tracestate": "y=2"}, arrival=arrival)
    assert both.extensions["tracestate"] == "y=2"


BAD_ATTRIBUTES = [
    ({"specversion": "0.3"}, "specversion"),
    ({"specversion": ""}, "specversion"),
    ({"id": ""}, "id"),
    ({"id": "i" * 257}, "id"),
    ({"id": "a\x7f"}, "id"),
    ({"source": ""}, "source"),
    ({"source": "not a uri"}, "source"),
    ({"source": "/" * 1025}, "source"),
    ({"type": ""}, "type"),
    ({"type": "t" * 257}, "type"),
    ({"type": "\U0001ffff"}, "type"),
    ({"time": "yesterday"}, "time"),
    ({"time": "2026-02-30T00:00:00Z"}, "time"),
    ({"subject": ""}, "subject"),
    ({"subject": "u" * 65}, "subject"),
    ({"partitionkey": ""}, "partitionkey"),
    ({"partitionkey": "u" * 65}, "partitionkey"),
    ({"partitionkey": "k", "subject": "s" * 1025}, "subject"),
    ({"dataschema": ""}, "dataschema"),
    ({"dataschema": "a b"}, "dataschema"),
    ({"other": "x" * 1025}, "other"),
    ({"other": "a\tb"}, "other"),
    ({"other_one": "x"}, "other_one"),
    ({"o" * 21: "x"}, "o" * 21),
    ({f"e{n}": "x" for n in range(33)}, ""),
]


@pytest.mark.parametrize(
    ("wrong", "field"),
    BAD_ATTRIBUTES,
    ids=[f"{n} {bad[1]}" for n, bad in enumerate(BAD_ATTRIBUTES)],
)
def test_a_bad_attribute_is_named_in_every_mode(wrong: dict[str, str], field: str) -> None:
    headers: dict[str, str | bytes] = {
        name: quote(value, safe="") for name, value in {**LEAST, **wrong}.items()
    }

    assert complaints({**LEAST, **wrong}) == [(0, field)]
    assert binary_complaints(headers) == [(0, f"ce-{field}" if field else "")]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"id": 5}, "id"),
        ({"specversion": 1.0}, "specversion"),
        ({"partitionkey": 7}, "partitionkey"),
        ({"other": 1.5}, "other"),
        ({"other": 2**31}, "other"),
        ({"other": -(2**31) - 1}, "other"),
        ({"other": 10**400}, "other"),
        ({"other": {"a": 1}}, "other"),
        ({"other": [1]}, "other"),
        ({"Type": "t"}, "Type"),
        ({"": "t"}, ""),
        ({"\ud800": "t"}, "\\ud800"),
        ({"other": "\ud800"}, "other"),
        ({"data": {"a": ["\ud800"]}}, "data"),
        ({"data": {"\udc00": 1}}, "data"),
        ({"datacontenttype": "text"}, "datacontenttype"),
        ({"datacontenttype": "text/plain\n"}, "datacontenttype"),
        ({"datacontenttype": "text/ä"}, "datacontenttype"),
        ({"datacontenttype": 5, "data": 1}, "datacontenttype"),
        ({"datacontenttype": "text/plain", "data": {"a": 1}}, "data"),
        ({"datacontenttype": "text/plain", "data": None}, "data"),
        ({"data": 1, "data_base64": "MQ=="}, "data_base64"),
        ({"data_base64": 5}, "data_base64"),
        ({"datacontenttype": "a/b", "data_base64": "MQ"}, "data_base64"),
        ({"datacontenttype": "a/b", "data_base64": "MQ==\n"}, "data_base64"),
        ({"datacontenttype": "a/b", "data_base64": "M-_="}, "data_base64"),
        ({"datacontenttype": "a/b", "data_base64": "ä"}, "data_base64"),
        ({"data_base64": "ew=="}, "data_base64"),
        ({"data_base64": "Iv8i"}, "data_base64"),
        ({"data_base64": "Ilx1ZDgwMCI="}, "data_base64"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_bad_member_is_named(wrong: dict[str, Any], field: str) -> None:
    assert complaints({**LEAST, **wrong}) == [(0, field)]


@pytest.mark.parametrize(
    ("value", "stored"), [(-(2**31), "-2147483648"), (2**31 - 1, "2147483647")]
)
def test_an_integer_has_32_bits(value: int, stored: str) -> None:
    assert structured({**LEAST, "other": value}).extensions["other"] == stored


@pytest.mark.parametrize("other", [{}, {"data": "\ud800"}], ids=["readable", "explained"])
def test_an_integer_is_no_mistake_beside_one(other: dict[str, str]) -> None:
    sent = {**LEAST, "count": 5, "large": 2**31, **other}

    assert complaints(sent) == [(0, "large"), *((0, field) for field in other)]


def test_an_event_without_a_user_is_told_where_it_goes() -> None:
    without = {name: value for name, value in LEAST.items() if name != "subject"}

    with pytest.raises(InvalidEvents) as refused:
        structured(without)

    assert named(refused) == [(0, "partitionkey")]
    assert "subject" in refused.value.errors[0].detail


def test_there_may_be_32_extensions_and_no_more() -> None:
    extensions = {f"e{n}": "x" * 1024 for n in range(32)}

    assert len(structured({**LEAST, **extensions}).extensions) == 33
    assert complaints({**LEAST, **extensions, "more": "x"}) == [(0, "")]


@pytest.mark.parametrize("lone", ["x", "\ud800"], ids=["readable", "explained"])
def test_a_million_members_are_not_answered_one_by_one(lone: str) -> None:
    many = {f"E{n}": 1 for n in range(300_000)}

    with pytest.raises(InvalidEvents) as refused:
        structured({**many, **LEAST, "time": "x", "data": lone})

    assert len(refused.value.errors) <= 40
    assert {"", "E0", "time"} <= {field for _, field in named(refused)}


@pytest.mark.parametrize("lone", ["x", "\ud800"], ids=["readable", "explained"])
def test_every_bad_element_of_a_batch_is_named(lone: str) -> None:
    elements = [{**LEAST, "data": lone}, {"ID": 1}, {**LEAST, "type": ""}, {**LEAST, "id": "j"}]

    with pytest.raises(InvalidEvents) as refused:
        batch(elements)

    assert named(refused) == [
        *([(0, "data")] if lone != "x" else []),
        *((1, field) for field in ("specversion", "id", "source", "type", "partitionkey", "ID")),
        (2, "type"),
        (2, "id"),
    ]


def test_what_is_no_object_is_named_beside_other_mistakes() -> None:
    with pytest.raises(InvalidEvents) as refused:
        batch([LEAST, 7, None, {**LEAST, "time": "x", "id": "j"}, LEAST])

    assert named(refused) == [(1, ""), (2, ""), (3, "time"), (4, "id")]


def test_one_request_holds_an_id_once() -> None:
    with pytest.raises(InvalidEvents) as refused:
        batch([LEAST, {**LEAST, "id": "j"}, {**LEAST, "source": "/other"}])

    assert named(refused) == [(2, "id")]


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"x"', b"[{}]"])
def test_a_structured_body_is_one_object(body: bytes) -> None:
    assert complaints(body) == []


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b"{}"])
def test_a_batch_is_an_array_with_events(body: bytes) -> None:
    with pytest.raises(InvalidEvents) as refused:
        batch(body)

    assert named(refused) == []


MALFORMED = [
    b"{",
    b"NaN",
    b"[-Infinity]",
    b"01",
    b'"a\nb"',
    b'"\\x"',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b"1 x",
    b"\xef\xbb\xbf1",
    b"[" * 200_000 + b"]" * 200_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:20]))
def test_what_is_no_readable_json_is_refused_as_a_whole(data: bytes) -> None:
    sent = text(b"data", data)

    with pytest.raises(MalformedBody):
        structured(sent)
    with pytest.raises(MalformedBody):
        batch(b"[" + sent + b"]")
    with pytest.raises(MalformedBody):
        structured(text(b"other", data))
    with pytest.raises(MalformedBody):
        binary({**LEAST}, data)


def test_a_lone_surrogate_in_a_json_body_is_named() -> None:
    assert binary_complaints({**LEAST, "type": ""}, b'["\\ud800"]') == [(0, "ce-type"), (0, "")]


def test_a_request_may_hold_so_many_events_and_no_more() -> None:
    elements = [{**LEAST, "id": f"i{n}"} for n in range(101)]

    assert len(batch(elements[:100])) == 100
    with pytest.raises(TooManyEvents):
        batch(elements)
    with pytest.raises(TooManyEvents):
        batch(["\ud800"] * 101)


def test_every_payload_that_is_too_large_is_named() -> None:
    plain = {**LEAST, "datacontenttype": "text/plain"}
    encoded = base64.b64encode(b"x" * 1_001).decode()

    with pytest.raises(PayloadsTooLarge) as refused:
        batch(
            [
                {**plain, "id": "a", "data": "x" * 1_000},
                {**plain, "id": "b", "data": "x" * 1_001},
                {**plain, "id": "c", "data_base64": encoded},
            ]
        )
    assert [(e.index, e.field) for e in refused.value.errors] == [(1, "data"), (2, "data_base64")]
    with pytest.raises(PayloadsTooLarge):
        binary({**LEAST}, b"x" * 1_001, b"text/plain")


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"Euro%20%e2%82%ac", "Euro €"),
        (b"%41%2525", "A%25"),
        (b"a b", "a b"),
        (b'"a b"', "a b"),
        (b'"a \\"b\\\\"', 'a "b\\'),
        (b'a "b"', 'a "b"'),
        (b'"a%20"', "a "),
        ("ä".encode(), "ä"),
    ],
    ids=repr,
)
def test_a_header_s_value_is_decoded_once(value: bytes, decoded: str) -> None:
    assert binary({**LEAST, "other": value}).extensions["other"] == decoded


@pytest.mark.parametrize("value", [b"%C0%A0", b"%ff", b"\xff", b"%ED%A0%80"])
@pytest.mark.parametrize("name", ["id", "source", "time", "subject", "specversion", "other"])
def test_a_header_that_is_not_utf8_is_named(name: str, value: bytes) -> None:
    assert binary_complaints({**LEAST, name: value}) == [(0, f"ce-{name}")]


def test_every_bad_header_is_named() -> None:
    headers = {"specversion": "1.0", "id": "", "source": "/", "Bad": "x", "data": "x"}

    assert binary_complaints(headers, b"", b"text") == [
        (0, "ce-type"),
        (0, "ce-partitionkey"),
        (0, "ce-id"),
        (0, "ce-Bad"),
        (0, "ce-data"),
        (0, "content-type"),
    ]


def test_the_type_of_the_data_is_the_content_type_alone() -> None:
    assert binary_complaints({**LEAST, "datacontenttype": "text/plain"}) == [
        (0, "ce-datacontenttype")
    ]


@pytest.mark.parametrize(
    "content_type", [b"text/\xff", b"text/plain\tx", b"text", b"a/" + b"b" * 255]
)
def test_a_bad_content_type_is_named(content_type: bytes) -> None:
    assert binary_complaints({**LEAST}, b"x", content_type) == [(0, "content-type")]


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(_VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(deadline=None)
def test_any_json_is_kept_byte_for_byte(
    value: object, is_ascii: bool, indent: int | str | None
) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    payload = written.replace("Infinity", "1e999").encode()
    sent = text(b"data", payload)

    assert structured(sent, LOOSE).payload == payload
    assert batch(b"[" + sent + b"]", LOOSE)[0].payload == payload
    assert binary({**LEAST}, payload, limits=LOOSE).payload == payload


@given(st.binary())
@settings(deadline=None)
def test_any_bytes_are_kept(payload: bytes) -> None:
    sent = {**LEAST, "datacontenttype": "a/b", "data_base64": base64.b64encode(payload).decode()}

    assert structured(sent, LOOSE).payload == payload
    assert binary({**LEAST}, payload, b"a/b").payload == payload


@given(st.text(), st.booleans())
@settings(deadline=None)
def test_any_text_is_kept(value: str, is_ascii: bool) -> None:
    sent = {**LEAST, "datacontenttype": "text/plain", "data": value}
    body = json.dumps(sent, ensure_ascii=is_ascii).encode()

    assert structured(body, LOOSE).payload == value.encode()


@given(st.binary() | st.text().map(str.encode))
@settings(deadline=None)
def test_of_random_bytes_only_refusals_come(body: bytes) -> None:
    quoted = b'"%b"' % body
    for sent in (
        body,
        text(b"data", body),
        text(b"data_base64", quoted),
        text(b"datacontenttype", quoted),
        text(b"other", body),
        text(body, b"1"),
    ):
        for read in (read_structured, read_batch):
            for whole in (sent, b"[" + sent + b"]"):
                try:
                    assert read(whole, LIMITS, ARRIVAL)
                except KeylaneError:
                    continue


@given(
    st.dictionaries(st.binary(max_size=5).map(lambda name: b"ce-" + name), st.binary()),
    st.binary(),
    st.none() | st.binary() | st.sampled_from([b"application/json", b"text/plain"]),
    st.booleans(),
)
@settings(deadline=None)
def test_of_random_headers_only_refusals_come(
    headers: dict[bytes, bytes], body: bytes, content_type: bytes | None, is_whole: bool
) -> None:
    if is_whole:
        headers.update({f"ce-{n}".encode(): v.encode() for n, v in LEAST.items()})
    if content_type is not None:
        headers[b"content-type"] = content_type
    try:
        [event] = read_binary(headers, body, LIMITS, ARRIVAL)
    except KeylaneError:
        return
    to_message(event)
