"""CloudEvents 1.0 over HTTP: one in structured mode, a batch, or one in binary mode.

What the specification leaves open, or this service asks for:

- The user is the extension `partitionkey`, without it `subject`; one of them is needed. Both are
  kept as extensions too, as is `dataschema`.
- In structured mode `data` that is JSON is kept byte for byte. When `datacontenttype` is not JSON,
  `data` has to be a string, and its text in UTF-8 is the payload. `data_base64` is decoded.
- What is said to be JSON has to be JSON, in every mode: else each receiver would find that out.
- Absent data is stored as zero bytes if a `datacontenttype` is given that is not JSON, and as
  `null` otherwise.
- A body in binary mode without Content-Type is `application/octet-stream`.
- A trace context in the event wins over that of the request.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

# Not the `cloudevents` package: it parses the data and writes it anew, so its bytes would not be
# those that were sent.
import msgspec

from ingest.arrival import Arrival
from ingest.decode import Limits, check_count, check_payloads, check_utf8
from ingest.explain import (
    TOO_DEEP,
    UNFIT_TEXT,
    UNFIT_URI,
    Check,
    json_problem,
    json_type,
    not_an_object,
    read_leniently,
    repeated_id,
    shown,
    text_check,
    time_problem,
)
from ingest.refusals import ElementError, InvalidEvents, MalformedBody
from ingest.schema import MAX_SOURCE_CHARACTERS, MAX_TYPE_CHARACTERS, PLAIN_TEXT, URI_REFERENCE
from keylane.errors import KeylaneError
from keylane.event import DEFAULT_CONTENT_TYPE, MAX_ID_CHARACTERS, Event, rfc3339

MAX_EXTENSIONS: Final = 32
MAX_EXTENSION_CHARACTERS: Final = 1024

_DATA: Final = "data"
_DATA_BASE64: Final = "data_base64"
_CONTENT_TYPE: Final = "datacontenttype"
_UNKNOWN_TYPE: Final = "application/octet-stream"
_INTEGERS: Final = range(-(2**31), 2**31)
#: What a user is taken from, the first of them that is there.
_USER: Final = ("partitionkey", "subject")
_REQUIRED: Final = ("specversion", "id", "source", "type")
#: Attributes that have a place of their own in an event; all others are its extensions.
_PLACED: Final = frozenset({*_REQUIRED, "time", _CONTENT_TYPE})

_NAME: Final = re.compile(r"[a-z0-9]{1,20}")
_TOKEN: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105  a token of RFC 9110
_MEDIA_TYPE: Final = rf"\A{_TOKEN}/{_TOKEN}(?: *;[\x20-\x7e]*)?\Z"
_OTHER_CHARSET: Final = re.compile(r';\s*charset\s*=\s*+"?+(?!utf-?8"?\s*(?:;|$))', re.IGNORECASE)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(rb"\\(.)")

#: By name. A header that is not UTF-8 stays bytes, which no check takes.
_Attributes: TypeAlias = dict[str, object]
_Element: TypeAlias = dict[str, msgspec.Raw]
#: A name, and what is wrong with it.
_Problem: TypeAlias = tuple[str, str]

_decoder = msgspec.json.Decoder(_Element)
_batch_decoder = msgspec.json.Decoder(list[_Element])
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
_text_decoder = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class _Sent:
    """One event as it was sent: its attributes that are not null, and what it holds."""

    attributes: _Attributes
    payload: bytes
    #: Where the payload stood, and what is wrong with it.
    payload_problem: _Problem


def read_structured(body: bytes, limits: Limits, arrival: Arrival) -> list[Event]:
    """Read one event; raises as `ingest.decode.decode` does."""
    check_utf8(body)
    try:
        element = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _explain(_one(read_leniently(body)), limits, str(error)) from error
    return _events([_from_raw(element)], limits, arrival)


def read_batch(body: bytes, limits: Limits, arrival: Arrival) -> list[Event]:
    """Read all events of an array, in their order; raises as `ingest.decode.decode` does."""
    check_utf8(body)
    try:
        elements = _batch_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _explain(_many(read_leniently(body)), limits, str(error)) from error
    check_count(len(elements), limits.max_events)
    return _events([_from_raw(element) for element in elements], limits, arrival)


def read_binary(
    headers: Mapping[bytes, bytes], body: bytes, limits: Limits, arrival: Arrival
) -> list[Event]:
    """Read the one event whose attributes are headers and whose payload is the body.

    Raises as `ingest.decode.decode` does.
    """
    attributes = _from_headers(headers)
    problems = list(_problems(attributes, _user_check(limits)))
    problems += [
        (name, "must not be sent: the body is the data, Content-Type its type")
        for name in (_DATA, _CONTENT_TYPE)
        if name in attributes
    ]
    errors = [ElementError(0, shown(name and f"ce-{name}"), problem) for name, problem in problems]
    content_type = _content_type_of(headers, body)
    payload = body or _absent(content_type)
    if problem := _CHECKS[_CONTENT_TYPE](content_type):
        errors.append(ElementError(0, "content-type", problem))
    elif _is_json(content_type) and (problem := _json_text_problem(payload)):
        errors.append(ElementError(0, "", problem))
    if errors:
        raise InvalidEvents(errors)
    event = _event({**attributes, _CONTENT_TYPE: content_type}, payload, arrival)
    check_payloads([event], limits.max_payload_bytes, [""])
    return [event]


def _events(elements: Sequence[_Sent], limits: Limits, arrival: Arrival) -> list[Event]:
    if errors := _errors(elements, limits):
        raise InvalidEvents(errors)
    events = [_event(sent.attributes, sent.payload, arrival) for sent in elements]
    fields = [sent.payload_problem[0] for sent in elements]
    check_payloads(events, limits.max_payload_bytes, fields)
    return events


def _event(attributes: _Attributes, payload: bytes, arrival: Arrival) -> Event:
    """Make an event of attributes that were checked."""
    written = {name: _written(value) for name, value in attributes.items()}
    own = {name: value for name, value in written.items() if name not in _PLACED}
    around = dict(arrival.extensions)
    if "traceparent" in own:
        around.pop("tracestate", None)  # it belongs to the other parent
    return Event(
        written["id"],
        own.get("partitionkey") or own["subject"],
        payload,
        written["type"],
        written["source"],
        written["time"].upper() if "time" in written else rfc3339(arrival.now_ms),
        written.get(_CONTENT_TYPE, DEFAULT_CONTENT_TYPE),
        accepted_at_ms=arrival.now_ms,
        extensions={**around, **own},
    )


def _written(value: object) -> str:
    """The canonical string of an attribute."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explain(elements: Sequence[object], limits: Limits, reason: str) -> KeylaneError:
    """Say what is wrong with elements that were refused for `reason`; they are never stored."""
    check_count(len(elements), limits.max_events)
    sent = [_from_value(e) if isinstance(e, dict) else e for e in elements]
    errors = _errors(sent, limits)
    return InvalidEvents(errors) if errors else MalformedBody(f"Not readable: {reason}.")


def _one(found: object) -> Sequence[object]:
    if not isinstance(found, dict):
        raise InvalidEvents((), "The body must be one CloudEvent, an object.")
    return [found]


def _many(found: object) -> Sequence[object]:
    if not isinstance(found, list):
        raise InvalidEvents((), "The body must be an array of CloudEvents.")
    return found


def _from_raw(element: _Element) -> _Sent:
    values = {name: _value(bytes(element[name])) for name in _looked_at(element)}
    return _sent(values, bytes(element[_DATA]) if _DATA in element else None)


def _from_value(element: dict[str, object]) -> _Sent:
    """Take an element that was read leniently, so that it can be looked at."""
    values = {name: element[name] for name in _looked_at(element)}
    if problem := json_problem(element.get(_DATA)):
        return _Sent(_without_nulls(values), b"", (_DATA, problem))
    return _sent(values, json.dumps(element[_DATA]).encode() if _DATA in element else None)


def _looked_at(element: Collection[str]) -> Sequence[str]:
    """The names that count; of too many what is known, and one extension more than is taken.

    An element may have a million members, and each would cost an answer.
    """
    if len(element) <= MAX_EXTENSIONS:
        return [name for name in element if name != _DATA]
    others = (name for name in element if name not in _KNOWN and name != _DATA)
    known = (name for name in _KNOWN if name in element)
    return [*known, *islice(others, MAX_EXTENSIONS + 1)]


def _sent(values: _Attributes, data: bytes | None) -> _Sent:
    data_base64 = values.pop(_DATA_BASE64, None)
    attributes = _without_nulls(values)
    content_type = attributes.get(_CONTENT_TYPE, DEFAULT_CONTENT_TYPE)
    if data_base64 is None:
        payload, problem = _payload(data, content_type)
        return _Sent(attributes, payload, (_DATA, problem))
    payload, problem = _decoded(data_base64, content_type)
    if data is not None:
        problem = "must not stand beside data"
    return _Sent(attributes, payload, (_DATA_BASE64, problem))


def _without_nulls(values: _Attributes) -> _Attributes:
    return {name: value for name, value in values.items() if value is not None}


def _value(raw: bytes) -> object:
    return _text_decoder.decode(raw) if raw.startswith(b'"') else read_leniently(raw)


def _payload(data: bytes | None, content_type: object) -> tuple[bytes, str]:
    """The payload that `data` stands for, and what is wrong with it."""
    if data is None:
        return _absent(content_type), ""
    if _is_json(content_type):
        return data, ""
    if not data.startswith(b'"'):
        return b"", "must be a string, as datacontenttype is not JSON"
    if _OTHER_CHARSET.search(str(content_type)):
        return b"", "is text in UTF-8, but datacontenttype says otherwise; send data_base64"
    return _text_decoder.decode(data).encode(), ""


def _decoded(data_base64: object, content_type: object) -> tuple[bytes, str]:
    if not isinstance(data_base64, str):
        return b"", f"must be a string, is {json_type(data_base64)}"
    try:
        payload = binascii.a2b_base64(data_base64, strict_mode=True)
        return payload, _json_text_problem(payload) if _is_json(content_type) else ""
    except ValueError:
        return b"", "is not base64 (RFC 4648)"
    except MalformedBody:
        return b"", "is not JSON, as datacontenttype says"


def _absent(content_type: object) -> bytes:
    return b"null" if _is_json(content_type) else b""


def _is_json(content_type: object) -> bool:
    if not isinstance(content_type, str):
        return True  # it is refused; what follows from it would be noise
    subtype = content_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _json_text_problem(text: bytes) -> str:
    """Say what is wrong with the values of a JSON text; raises `MalformedBody` if it is none."""
    check_utf8(text)
    try:
        _raw_decoder.decode(text)
    except RecursionError as error:
        raise MalformedBody(TOO_DEEP) from error
    except msgspec.DecodeError as error:
        return json_problem(read_leniently(text)) or f"is not readable: {error}"
    return ""


def _from_headers(headers: Mapping[bytes, bytes]) -> _Attributes:
    return {
        name.decode("latin-1").removeprefix("ce-"): _header_value(value)
        for name, value in headers.items()
        if name.startswith(b"ce-")
    }


def _header_value(value: bytes) -> object:
    """Undo quotes, then one round of percent-encoding, as the HTTP binding says (3.1.3.2)."""
    quoted = _QUOTED.fullmatch(value)
    return _text(unquote_to_bytes(_ESCAPED.sub(rb"\1", quoted[1]) if quoted else value))


def _content_type_of(headers: Mapping[bytes, bytes], body: bytes) -> object:
    value = headers.get(b"content-type", b"").strip()
    if not value:
        return _UNKNOWN_TYPE if body else DEFAULT_CONTENT_TYPE
    return _text(value)


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _errors(elements: Iterable[object], limits: Limits) -> list[ElementError]:
    """Everything that is wrong with the elements, in their order."""
    errors: list[ElementError] = []
    first_with: dict[str, int] = {}
    user_check = _user_check(limits)
    for index, sent in enumerate(elements):
        if not isinstance(sent, _Sent):
            errors.append(not_an_object(index, sent))
            continue
        for field, problem in (*_problems(sent.attributes, user_check), sent.payload_problem):
            if problem:
                errors.append(ElementError(index, shown(field), problem))
        event_id = sent.attributes.get("id")
        if isinstance(event_id, str) and first_with.setdefault(event_id, index) != index:
            errors.append(repeated_id(index, first_with[event_id], "id"))
    return errors


def _problems(attributes: _Attributes, user_check: Check) -> Iterator[_Problem]:
    """What is wrong with attributes; an empty name means all of them."""
    for name in _REQUIRED:
        if name not in attributes:
            yield name, "is required"
    user = next((name for name in _USER if name in attributes), "")
    if not user:
        yield _USER[0], "is required, or subject: it says whose event it is"
    for name, value in attributes.items():
        check = user_check if name == user else _CHECKS.get(name)
        if problem := check(value) if check else _extension_problem(name, value):
            yield name, problem
    if len(attributes.keys() - _CHECKS.keys()) > MAX_EXTENSIONS:
        yield "", f"has more than {MAX_EXTENSIONS} extensions"


def _user_check(limits: Limits) -> Check:
    return text_check(limits.max_user_characters, PLAIN_TEXT, UNFIT_TEXT)


def _version_problem(value: object) -> str:
    return "" if value == "1.0" else 'must be "1.0"'


def _extension_problem(name: str, value: object) -> str:
    if not _NAME.fullmatch(name):
        return "is no attribute: their names have 1 to 20 characters, a to z and 0 to 9"
    if isinstance(value, str):
        return _extension_text(value) if value else ""
    if not isinstance(value, (bool, int)):
        return f"must be a string, a boolean or an integer, is {json_type(value)}"
    return "" if value in _INTEGERS else "must have 32 bits at most"


_extension_text: Final = text_check(MAX_EXTENSION_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT)

#: All others are extensions.
_CHECKS: Final[Mapping[str, Check]] = {
    "specversion": _version_problem,
    "id": text_check(MAX_ID_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT),
    "source": text_check(MAX_SOURCE_CHARACTERS, URI_REFERENCE, UNFIT_URI),
    "type": text_check(MAX_TYPE_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT),
    "time": time_problem,
    _CONTENT_TYPE: text_check(256, _MEDIA_TYPE, "must be a media type such as text/plain"),
    "dataschema": text_check(MAX_EXTENSION_CHARACTERS, URI_REFERENCE, UNFIT_URI),
    "subject": _extension_text,
    "partitionkey": _extension_text,
}
_KNOWN: Final = (*_CHECKS, _DATA_BASE64)
