r"""A request's body becomes events, or errors that name every bad element; nothing in between.

What is taken, beyond the types in ingest/schema.py:

- A payload is any JSON value (RFC 8259) and is kept byte for byte: order of keys, spelling of
  numbers (`1e999` too), escapes, duplicate keys. Only a lone surrogate (`"\ud800"`) is refused: it
  is no Unicode, and most readers fail on it.
- `null` stands for an absent optional field. Unknown fields are refused: a misspelt `Tipe` that is
  dropped in silence is worse than an error. Of a repeated field the last one counts.
- One request can't hold two events with the same ID: receivers would drop the second as a repeat.
- An empty array is refused: 202 would promise a stored event where there is none.
- ID, Type and Source become CloudEvents attributes and HTTP headers, so control characters and
  Unicode noncharacters are refused in them, and Source is a URI reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ingest.explain import explain, is_moment, repeated_id, unfit_time
from ingest.ids import new_event_ids
from ingest.refusals import (
    ElementError,
    InvalidEvents,
    MalformedBody,
    PayloadsTooLarge,
    TooManyEvents,
)
from ingest.schema import Body, SentEvent
from keylane.event import DEFAULT_SOURCE, DEFAULT_TYPE, Event, rfc3339

_decoder: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may hold."""

    max_events: int
    max_payload_bytes: int


def decode(
    body: bytes, limits: Limits, now_ms: int, extensions: Mapping[str, str] | None = None
) -> list[Event]:
    """Read all events of a body, in their order; `extensions` are given to each.

    Raises `MalformedBody`, `InvalidEvents`, `TooManyEvents` or `PayloadsTooLarge`.
    """
    elements = _read(body, limits)
    if not elements:
        raise InvalidEvents((), "The array is empty: send at least one event.")
    if len(elements) > limits.max_events:
        raise TooManyEvents(len(elements), limits.max_events)
    _check_ids_and_times(elements)
    events = _events(elements, now_ms, extensions or {})
    if len(body) > limits.max_payload_bytes:
        _check_payloads(events, limits.max_payload_bytes)
    return events


def _read(body: bytes, limits: Limits) -> list[SentEvent]:
    try:
        if not body.isascii():
            body.decode()  # what is kept raw is not checked by the decoder
        sent = _decoder.decode(body)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: byte {error.start}.") from error
    except RecursionError as error:
        raise MalformedBody("The body is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise explain(body, limits.max_events, str(error)) from error
    return sent if isinstance(sent, list) else [sent]


def _events(elements: list[SentEvent], now_ms: int, extensions: Mapping[str, str]) -> list[Event]:
    now = rfc3339(now_ms)
    new_ids = iter(new_event_ids(sum([e.id is None for e in elements]), now_ms))
    return [
        Event(
            e.id or next(new_ids),
            e.user,
            bytes(e.payload),
            e.type or DEFAULT_TYPE,
            e.source or DEFAULT_SOURCE,
            e.time.upper() if e.time else now,
            accepted_at_ms=now_ms,
            extensions=extensions,
        )
        for e in elements
    ]


def _check_ids_and_times(elements: list[SentEvent]) -> None:
    """Refuse what types can't say: repeated ids and dates that don't exist."""
    first_with: dict[str, int] = {}
    errors: list[ElementError] = []
    for index, element in enumerate(elements):
        if element.id is not None and first_with.setdefault(element.id, index) != index:
            errors.append(repeated_id(index, first_with[element.id]))
        if element.time is not None and not is_moment(element.time):
            errors.append(unfit_time(index))
    if errors:
        raise InvalidEvents(errors)


def _check_payloads(events: list[Event], max_bytes: int) -> None:
    errors = [
        ElementError(index, "Payload", f"has {len(event.payload)} bytes, {max_bytes} are taken")
        for index, event in enumerate(events)
        if len(event.payload) > max_bytes
    ]
    if errors:
        raise PayloadsTooLarge(errors)
