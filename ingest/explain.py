"""The slow way to read a body, taken only when it is refused: find everything that is wrong.

It uses another parser than ingest/decode.py, one that takes lone surrogates and so can say where
they are.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, NoReturn

from ingest.refusals import ElementError, InvalidEvents, MalformedBody, TooManyEvents
from ingest.schema import (
    DATE_TIME,
    MAX_SOURCE_CHARACTERS,
    MAX_TYPE_CHARACTERS,
    PLAIN_TEXT,
    URI_REFERENCE,
)
from keylane.errors import KeylaneError
from keylane.event import MAX_ID_CHARACTERS, MAX_USER_CHARACTERS

#: A field's name is shown no longer than this in an answer.
SHOWN_CHARACTERS: Final = 64

_UNFIT_TEXT: Final = "must not hold control characters or noncharacters"
_UNFIT_URI: Final = "must be a URI reference (RFC 3986): no spaces, other characters as %XX"
_UNFIT_TIME: Final = "must be an RFC 3339 date-time that exists, such as 2026-01-31T12:00:00Z"
_SURROGATE: Final = "holds a lone surrogate, which is no Unicode"
_UNKNOWN: Final = (
    "is no field of an event; those are UserID, Payload, ID, Type, Source and Time. "
    "What belongs to the event goes into Payload"
)


def explain(body: bytes, max_events: int, reason: str) -> KeylaneError:
    """Say what is wrong with a body in UTF-8 that was refused for `reason`.

    The answer is an error to raise: `MalformedBody`, `InvalidEvents` or `TooManyEvents`.
    """
    try:
        # Numbers are not looked at: a long one must neither cost nor fail here.
        found = json.loads(
            body.decode(), parse_constant=_refuse_constant, parse_int=float, parse_float=float
        )
        return _explain_json(found, max_events) or MalformedBody(f"Not readable: {reason}.")
    except RecursionError:
        return MalformedBody("The body is nested too deeply.")
    except ValueError as error:
        return MalformedBody(f"The body is not JSON: {error}.")


def is_moment(time: str) -> bool:
    """Whether a well-formed date-time exists (no 31 April, no leap second)."""
    try:
        datetime.fromisoformat(time.upper())
    except ValueError:
        return False
    return True


def unfit_time(index: int) -> ElementError:
    return ElementError(index, "Time", _UNFIT_TIME)


def repeated_id(index: int, first: int) -> ElementError:
    return ElementError(index, "ID", f"is the ID of element {first} too")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _explain_json(found: object, max_events: int) -> KeylaneError | None:
    if not isinstance(found, (list, dict)):
        return InvalidEvents((), "The body must be an array of events, or one event.")
    elements = found if isinstance(found, list) else [found]
    if len(elements) > max_events:
        return TooManyEvents(len(elements), max_events)
    errors = list(_errors(elements))
    return InvalidEvents(errors) if errors else None


def _errors(elements: Iterable[object]) -> Iterator[ElementError]:
    first_with: dict[str, int] = {}
    for index, element in enumerate(elements):
        if not isinstance(element, dict):
            yield ElementError(index, "", f"must be an object, is {_json_type(element)}")
            continue
        for field, problem in _problems(element):
            yield ElementError(index, _shown(field), problem)
        event_id = element.get("ID")
        if isinstance(event_id, str) and first_with.setdefault(event_id, index) != index:
            yield repeated_id(index, first_with[event_id])


def _problems(element: dict[str, object]) -> Iterator[tuple[str, str]]:
    for field in ("UserID", "Payload"):
        if field not in element:
            yield field, "is required"
    for field, value in element.items():
        check = _CHECKS.get(field)
        problem = check(value) if check else _unknown(field)
        if problem:
            yield field, problem


def _unknown(field: str) -> str:
    known = {name.lower(): name for name in _CHECKS}
    near = difflib.get_close_matches(field[:SHOWN_CHARACTERS].lower(), known, 1)
    return f"is no field of an event; did you mean {known[near[0]]}?" if near else _UNKNOWN


def _text(
    max_characters: int, pattern: str = "", unfit: str = "", *, nullable: bool = True
) -> Callable[[object], str]:
    """Make a check that returns what is wrong with a value, or nothing."""
    fits = re.compile(pattern)

    def check(value: object) -> str:
        if value is None and nullable:
            return ""
        if not isinstance(value, str):
            return f"must be a string, is {_json_type(value)}"
        if not 1 <= len(value) <= max_characters:
            return f"must have 1 to {max_characters} characters, has {len(value)}"
        if not _is_unicode(value):
            return _SURROGATE
        return "" if fits.search(value) else unfit

    return check


def _payload_problem(value: object) -> str:
    return "" if _is_unicode(json.dumps(value, ensure_ascii=False)) else _SURROGATE


def _time_problem(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and re.search(DATE_TIME, value) and is_moment(value):
        return ""
    return _UNFIT_TIME


_CHECKS: Final[Mapping[str, Callable[[object], str]]] = {
    "UserID": _text(MAX_USER_CHARACTERS, nullable=False),
    "Payload": _payload_problem,
    "ID": _text(MAX_ID_CHARACTERS, PLAIN_TEXT, _UNFIT_TEXT),
    "Type": _text(MAX_TYPE_CHARACTERS, PLAIN_TEXT, _UNFIT_TEXT),
    "Source": _text(MAX_SOURCE_CHARACTERS, URI_REFERENCE, _UNFIT_URI),
    "Time": _time_problem,
}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(field: str) -> str:
    """A field's name as an answer can carry it: short, without lone surrogates."""
    return field[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()


_TYPE_NAMES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def _json_type(value: object) -> str:
    return _TYPE_NAMES.get(type(value), "null")
