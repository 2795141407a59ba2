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

This is the plain form. Other forms (ingest/media.py) keep the same rules and limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import msgspec

from ingest.arrival import Arrival
from ingest.explain import (
    TOO_DEEP,
    UNFIT_TEXT,
    UNFIT_URI,
    Form,
    explain,
    is_moment,
    json_problem,
    repeated_id,
    text_check,
    time_problem,
    unfit_time,
    unfit_user,
)
from ingest.refusals import (
    ElementError,
    InvalidEvents,
    MalformedBody,
    PayloadsTooLarge,
    TooManyEvents,
)
from ingest.schema import (
    MAX_SOURCE_CHARACTERS,
    MAX_TYPE_CHARACTERS,
    PLAIN_TEXT,
    URI_REFERENCE,
    Body,
    SentEvent,
)
from keylane.event import (
    DEFAULT_SOURCE,
    DEFAULT_TYPE,
    MAX_ID_CHARACTERS,
    MAX_USER_CHARACTERS,
    Event,
    rfc3339,
)

_decoder: msgspec.json.Decoder[Body] = msgspec.json.Decoder(Body)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one request may hold; `max_user_characters` can't be above the schema's 256."""

    max_events: int
    max_payload_bytes: int
    max_user_characters: int = MAX_USER_CHARACTERS


def decode(body: bytes, limits: Limits, arrival: Arrival) -> list[Event]:
    """Read all events of a body, in their order.

    Raises `MalformedBody`, `InvalidEvents`, `TooManyEvents` or `PayloadsTooLarge`.
    """
    return events_of(_read(body, limits), len(body), limits, arrival)


def events_of(
    elements: list[SentEvent], body_bytes: int, limits: Limits, arrival: Arrival
) -> list[Event]:
    """Make events of what was sent; raises as `decode` does."""
    if not 0 < len(elements) <= limits.max_events:
        check_count(len(elements), limits.max_events)
    _check_elements(elements, limits.max_user_characters)
    events = _events(elements, arrival)
    if body_bytes > limits.max_payload_bytes:
        check_payloads(events, limits.max_payload_bytes, repeat("Payload"))
    return events


def event_form(max_user_characters: int) -> Form:
    """What an element may hold, for those who have to say what is wrong with one."""
    return Form(
        checks={
            "UserID": text_check(max_user_characters, nullable=False),
            "Payload": json_problem,
            "ID": text_check(MAX_ID_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT),
            "Type": text_check(MAX_TYPE_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT),
            "Source": text_check(MAX_SOURCE_CHARACTERS, URI_REFERENCE, UNFIT_URI),
            "Time": time_problem,
        },
        required=("UserID", "Payload"),
        id_field="ID",
        noun="an event",
        unknown="those are UserID, Payload, ID, Type, Source and Time. "
        "What belongs to the event goes into Payload",
        body="The body must be an array of events, or one event.",
    )


def check_utf8(body: bytes) -> None:
    """Refuse what is not UTF-8: what is kept raw is not checked by the decoder."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: byte {error.start}.") from error


def check_count(count: int, max_events: int) -> None:
    if not count:
        raise InvalidEvents((), "The array is empty: send at least one event.")
    if count > max_events:
        raise TooManyEvents(count, max_events)


def check_payloads(events: Sequence[Event], max_bytes: int, fields: Iterable[str]) -> None:
    """Refuse payloads that are too large; `fields` are the names under which they were sent."""
    errors = [
        ElementError(index, field, f"has {len(event.payload)} bytes, {max_bytes} are taken")
        for index, (event, field) in enumerate(zip(events, fields, strict=False))
        if len(event.payload) > max_bytes
    ]
    if errors:
        raise PayloadsTooLarge(errors)


def _read(body: bytes, limits: Limits) -> list[SentEvent]:
    if not body.isascii():
        check_utf8(body)
    try:
        sent = _decoder.decode(body)
    except RecursionError as error:
        raise MalformedBody(TOO_DEEP) from error
    except msgspec.DecodeError as error:
        form = event_form(limits.max_user_characters)
        raise explain(body, form, limits.max_events, str(error)) from error
    return sent if isinstance(sent, list) else [sent]


def _events(elements: list[SentEvent], arrival: Arrival) -> list[Event]:
    now_ms, extensions = arrival.now_ms, arrival.extensions
    now = rfc3339(now_ms)
    nameless = sum([e.id is None for e in elements])
    new_ids = iter(arrival.new_ids(nameless) if nameless else ())
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


def _check_elements(elements: list[SentEvent], max_user_characters: int) -> None:
    """Refuse what types can't say: long users, repeated ids and dates that don't exist."""
    first_with: dict[str, int] = {}
    errors: list[ElementError] = []
    for index, element in enumerate(elements):
        if len(element.user) > max_user_characters:
            errors.append(unfit_user(index, element.user, max_user_characters))
        if element.id is not None and first_with.setdefault(element.id, index) != index:
            errors.append(repeated_id(index, first_with[element.id]))
        if element.time is not None and not is_moment(element.time):
            errors.append(unfit_time(index))
    if errors:
        raise InvalidEvents(errors)
