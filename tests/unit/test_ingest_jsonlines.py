from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.arrival import Arrival
from ingest.decode import Limits
from ingest.ids import new_event_ids
from ingest.jsonlines import read_lines
from ingest.refusals import InvalidEvents, MalformedBody, PayloadsTooLarge, TooManyEvents
from keylane.errors import KeylaneError
from keylane.event import Event, rfc3339

LIMITS = Limits(max_events=100, max_payload_bytes=1_000, max_user_characters=16)
NOW_MS = 1_769_860_800_123
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
ARRIVAL = Arrival(NOW_MS, partial(new_event_ids, now_ms=NOW_MS), TRACE)

GOOD = b'{"UserID":"u","Payload":1}'


def read(body: bytes) -> list[Event]:
    return read_lines(body, LIMITS, ARRIVAL)


def complaints(body: bytes) -> list[tuple[int, str]]:
    with pytest.raises(InvalidEvents) as refused:
        read(body)
    return [(error.index, error.field) for error in refused.value.errors]


def test_each_line_is_an_event_in_order() -> None:
    body = b"\n".join(b'{"UserID":"u%d","Payload":{"n": %d}}' % (n % 3, n) for n in range(20))

    events = read(body)

    assert [event.user for event in events] == [f"u{n % 3}" for n in range(20)]
    assert [event.payload for event in events] == [b'{"n": %d}' % n for n in range(20)]
    assert {(event.time, event.accepted_at_ms) for event in events} == {(rfc3339(NOW_MS), NOW_MS)}
    assert all(event.extensions == TRACE for event in events)
    assert len({event.id for event in events}) == 20


@pytest.mark.parametrize(
    "body",
    [
        GOOD + b"\n" + GOOD,
        GOOD + b"\n" + GOOD + b"\n",
        GOOD + b"\r\n" + GOOD + b"\r\n",
        b"\n\n" + GOOD + b"\n \t\r\n\n" + b"  " + GOOD + b"  \n\n\n",
    ],
    ids=repr,
)
def test_blank_lines_are_ignored(body: bytes) -> None:
    assert [event.payload for event in read(body)] == [b"1", b"1"]


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\t\n"], ids=repr)
def test_a_body_without_an_event_is_refused(body: bytes) -> None:
    assert complaints(body) == []


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"[" + GOOD + b"]", ""),
        (b"7", ""),
        (b"null", ""),
        (b'{"Payload":1}', "UserID"),
        (b'{"UserID":"01234567890123456","Payload":1}', "UserID"),
        (b'{"UserID":"u","Payload":"\\ud800"}', "Payload"),
        (b'{"UserID":"u","Payload":1,"Tipe":"x"}', "Tipe"),
        (b'{"UserID":"u","Payload":1,"Time":"2026-02-30T00:00:00Z"}', "Time"),
    ],
    ids=repr,
)
def test_a_bad_line_is_named_by_index_and_field(line: bytes, field: str) -> None:
    assert complaints(GOOD + b"\n\n" + line + b"\n" + GOOD) == [(1, field)]


def test_every_bad_line_is_named() -> None:
    once = b'{"UserID":"u","Payload":1,"ID":"a"}'

    assert complaints(b"\n".join([once, b'{"UserID":""}', b"1", once])) == [
        (1, "Payload"),
        (1, "UserID"),
        (2, ""),
        (3, "ID"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        GOOD + GOOD,
        GOOD + b"," + GOOD,
        b'{"UserID":"u","Payload":NaN}',
        b'{"UserID":"u",\n"Payload":1}',
        b'{"UserID":"u","Payload":"a\tb"}',
        b'\xef\xbb\xbf{"UserID":"u","Payload":1}',
        b'{"UserID":"u","Payload":"\xff"}',
        b'{"UserID":"u","Payload":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"\x0b",
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_line_that_is_no_json_refuses_the_body(line: bytes) -> None:
    with pytest.raises(MalformedBody):
        read(GOOD + b"\n" + line + b"\n" + GOOD)


def test_the_line_that_is_no_json_is_named_as_editors_count() -> None:
    with pytest.raises(MalformedBody, match=r"^Line 4 is not JSON: Expecting value, column 2\.$"):
        read(b"\n" + GOOD + b"\n\n[,]\n" + GOOD)


def test_a_request_may_hold_so_many_lines_and_no_more() -> None:
    assert len(read((GOOD + b"\n") * 100)) == 100
    with pytest.raises(TooManyEvents, match="this one has 150"):
        read(b"1\n" * 150)


def test_every_payload_that_is_too_large_is_named() -> None:
    large = json.dumps({"UserID": "u", "Payload": "x" * 999}).encode()

    with pytest.raises(PayloadsTooLarge) as refused:
        read(b"\n".join([large, GOOD, large]))

    assert [error.index for error in refused.value.errors] == [0, 2]


def test_a_body_of_newlines_costs_little() -> None:
    started_at = time.process_time()

    with pytest.raises(InvalidEvents):
        read(b"\n" * 2_000_000)
    assert len(read(b"\n" * 1_000_000 + GOOD + b"\n" * 1_000_000 + GOOD)) == 2

    assert time.process_time() - started_at < 5


_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.tuples(_VALUES, st.booleans()), min_size=1, max_size=5))
@settings(deadline=None)
def test_any_payload_is_kept_byte_for_byte(values: list[tuple[Any, bool]]) -> None:
    payloads = [json.dumps(v, ensure_ascii=a).replace("Infinity", "1e999") for v, a in values]
    body = "\n".join(f'{{"UserID": "u", "Payload":  {payload} }}' for payload in payloads)

    events = read_lines(body.encode(), Limits(100, 1_000_000), ARRIVAL)

    assert [event.payload.decode() for event in events] == payloads


@given(st.lists(st.binary() | st.text().map(str.encode), max_size=4))
@settings(deadline=None)
def test_of_random_bytes_only_refusals_come(parts: list[bytes]) -> None:
    wrapped = [b'{"UserID":"u","Payload":%b}' % part for part in parts]
    for body in (b"\n".join(parts), b"\n".join(wrapped), b"\r\n".join([GOOD, *parts])):
        try:
            assert read(body)
        except KeylaneError:
            continue
