from __future__ import annotations

from functools import partial

import pytest

from ingest.arrival import Arrival
from ingest.cloudevents import read_batch, read_structured
from ingest.decode import Limits, decode
from ingest.ids import new_event_ids
from ingest.jsonlines import read_lines
from ingest.media import Reader, reader_for
from ingest.notify import read_notification
from ingest.refusals import WrongMediaType

LIMITS = Limits(max_events=100, max_payload_bytes=1_000)
ARRIVAL = Arrival(1, partial(new_event_ids, now_ms=1), {}, "192.0.2.7")
ATTRIBUTES = {
    b"ce-specversion": b"1.0",
    b"ce-id": b"i",
    b"ce-source": b"/s",
    b"ce-type": b"t",
    b"ce-subject": b"u",
}


def reader(content_type: bytes, path: str = "/events") -> Reader:
    return reader_for(path, {b"content-type": content_type})


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", decode),
        (b"application/x-ndjson", read_lines),
        (b"application/jsonl", read_lines),
        (b"application/x-jsonlines", read_lines),
        (b"application/cloudevents+json", read_structured),
        (b"application/cloudevents-batch+json", read_batch),
    ],
)
@pytest.mark.parametrize(
    "spelling",
    [
        b"%b",
        b" %b ",
        b"%b; charset=utf-8",
        b"%b;charset=UTF8",
        b'%b ; charset = "utf-8" ',
    ],
)
def test_the_content_type_says_the_form(
    content_type: bytes, expected: Reader, spelling: bytes
) -> None:
    assert reader(spelling % content_type) is expected
    assert reader(spelling % content_type.upper()) is expected


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"text/plain",
        b"application/json; charset=latin-1",
        b"application/json; charset=utf-16",
        b"application/json, text/plain",
        b"application/json; profile=x",
        b"application/jsonp",
        b"xapplication/json",
        b"application/x-www-form-urlencoded",
        b"application/cloudevents",
        b"application/cloudevents+avro",
        b"\xff",
    ],
    ids=repr,
)
def test_other_types_are_refused_with_what_is_taken(content_type: bytes) -> None:
    with pytest.raises(WrongMediaType) as refused:
        reader(content_type)

    for taken in ("json", "x-ndjson", "cloudevents+json", "cloudevents-batch+json"):
        assert f"application/{taken}" in str(refused.value)


def test_a_missing_type_is_refused() -> None:
    for path in ("/events", "/notify"):
        with pytest.raises(WrongMediaType):
            reader_for(path, {})


def test_a_notification_is_json_only() -> None:
    assert reader(b"application/json", "/notify") is read_notification
    assert reader(b"Application/JSON;charset=utf-8", "/notify") is read_notification
    for content_type in (b"application/x-ndjson", b"application/cloudevents+json", b"text/plain"):
        with pytest.raises(WrongMediaType, match=r"^Send it with Content-Type: application/json,"):
            reader(content_type, "/notify")


def test_headers_of_a_cloudevent_make_no_notification_of_another_type() -> None:
    assert reader_for("/notify", {b"content-type": b"application/json", **ATTRIBUTES}) is (
        read_notification
    )
    with pytest.raises(WrongMediaType):
        reader_for("/notify", ATTRIBUTES)


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"image/png"])
def test_with_headers_of_a_cloudevent_the_body_is_its_payload(content_type: bytes) -> None:
    headers = {b"content-type": content_type, **ATTRIBUTES}

    [event] = reader_for("/events", headers)(b'{"a": 1}', LIMITS, ARRIVAL)

    assert (event.id, event.payload) == ("i", b'{"a": 1}')
    assert event.content_type == content_type.decode()


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/cloudevents+json", read_structured),
        (b"Application/CloudEvents-batch+json; charset=utf-8", read_batch),
    ],
)
def test_a_structured_cloudevent_may_repeat_its_attributes_in_headers(
    content_type: bytes, expected: Reader
) -> None:
    assert reader_for("/events", {b"content-type": content_type, **ATTRIBUTES}) is expected


def test_an_unknown_format_of_cloudevents_is_no_payload() -> None:
    with pytest.raises(WrongMediaType):
        reader_for("/events", {b"content-type": b"application/cloudevents+avro", **ATTRIBUTES})
