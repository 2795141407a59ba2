"""JSON lines (NDJSON): one event object a line, in the plain form; blank lines are ignored.

Elements count from 0 and lines from 1, as editors show them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec

from ingest.arrival import Arrival
from ingest.decode import Limits, check_utf8, event_form, events_of
from ingest.explain import element_errors, read_leniently
from ingest.refusals import InvalidEvents, MalformedBody, TooManyEvents
from ingest.schema import SentEvent
from keylane.errors import KeylaneError
from keylane.event import Event

_BLANK: Final = b" \t\r\n"
# Possessive, and the end is cut off blanks first: else a body of newlines costs their square.
_LINE: Final = re.compile(rb"[ \t\r\n]*+([^\n]+)")

_decoder = msgspec.json.Decoder(SentEvent)

_Line = re.Match[bytes]


def read_lines(body: bytes, limits: Limits, arrival: Arrival) -> list[Event]:
    """Read an event from each line, in their order; raises as `ingest.decode.decode` does."""
    check_utf8(body)
    lines = _lines(body, limits.max_events)
    if not lines:
        raise InvalidEvents((), "There is no line with an event: send at least one.")
    try:
        # Not `decode_lines`: it takes an object that goes on over several lines.
        elements = [_decoder.decode(line[1]) for line in lines]
    except (msgspec.DecodeError, RecursionError) as error:
        raise _explain(body, lines, limits, str(error)) from error
    return events_of(elements, len(body), limits, arrival)


def _lines(body: bytes, max_events: int) -> Sequence[_Line]:
    found = _LINE.finditer(body, 0, len(body.rstrip(_BLANK)))
    lines = list(islice(found, max_events + 1))
    if len(lines) > max_events:
        # The others are only counted: each would weigh a hundred bytes.
        raise TooManyEvents(len(lines) + sum(1 for _ in found), max_events)
    return lines


def _explain(body: bytes, lines: Sequence[_Line], limits: Limits, reason: str) -> KeylaneError:
    elements: list[object] = []
    for line in lines:
        try:
            elements.append(read_leniently(line[1]))
        except MalformedBody as error:
            number = body.count(b"\n", 0, line.start(1)) + 1
            return MalformedBody(f"Line {number} is not JSON: {_place(error.__cause__)}.")
    try:
        errors = list(element_errors(elements, event_form(limits.max_user_characters)))
    except MalformedBody as error:
        return error
    return InvalidEvents(errors) if errors else MalformedBody(f"Not readable: {reason}.")


def _place(error: BaseException | None) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error)
