"""The slow way to read a body, taken only when it is refused: find everything that is wrong.

It uses another parser than the readers, one that takes lone surrogates and so can say where they
are. What one value may be is told by checks, which other forms of a body use too.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, NoReturn, TypeAlias

from ingest.refusals import ElementError, InvalidEvents, MalformedBody, TooManyEvents
from ingest.schema import DATE_TIME
from keylane.errors import KeylaneError

#: A field's name is shown no longer than this in an answer.
SHOWN_CHARACTERS: Final = 64
#: Of one element no more is told than this, and nearest names only as long as so many errors are
#: told in all: a body may have a million fields, and each look for the nearest costs 10 us.
MAX_PROBLEMS: Final = 20
_MAX_GUESSES: Final = 1_000
#: No integer that is looked at is written with more characters than -2147483648.
_INTEGER_CHARACTERS: Final = 11

UNFIT_TEXT: Final = "must not hold control characters or noncharacters"
UNFIT_URI: Final = "must be a URI reference (RFC 3986): no spaces, other characters as %XX"
_UNFIT_TIME: Final = "must be an RFC 3339 date-time that exists, such as 2026-01-31T12:00:00Z"
_SURROGATE: Final = "holds a lone surrogate, which is no Unicode"
TOO_DEEP: Final = "The body is nested too deeply."

#: Says what is wrong with a value; nothing if it fits.
Check: TypeAlias = Callable[[object], str]


@dataclass(frozen=True, slots=True)
class Form:
    """What a body may hold: one element, or an array of them.

    `checks` are by field. `body` is told of what is neither, `unknown` of a field that resembles
    none.
    """

    checks: Mapping[str, Check]
    required: tuple[str, ...]
    id_field: str
    noun: str
    unknown: str
    body: str
    takes_many: bool = True


def explain(body: bytes, form: Form, max_events: int, reason: str) -> KeylaneError:
    """Say what is wrong with a body in UTF-8 that was refused for `reason`.

    The answer is an error to raise: `MalformedBody`, `InvalidEvents` or `TooManyEvents`.
    """
    try:
        found = read_leniently(body)
    except MalformedBody as error:
        return error
    return _explain_json(found, form, max_events) or MalformedBody(f"Not readable: {reason}.")


def read_leniently(text: bytes) -> object:
    """Read JSON in UTF-8 that may hold lone surrogates; raises `MalformedBody`."""
    try:
        return json.loads(
            text.decode(), parse_constant=_refuse_constant, parse_int=_integer, parse_float=float
        )
    except RecursionError as error:
        raise MalformedBody(TOO_DEEP) from error
    except ValueError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from error


def element_errors(elements: Iterable[object], form: Form) -> Iterator[ElementError]:
    """Every bad element, in their order, and `MAX_PROBLEMS` of what is wrong with each."""
    first_with: dict[str, int] = {}
    guesses = _MAX_GUESSES
    for index, element in enumerate(elements):
        if not isinstance(element, dict):
            yield not_an_object(index, element)
            continue
        for field, problem in islice(_problems(element, form, may_guess=guesses > 0), MAX_PROBLEMS):
            guesses -= 1
            yield ElementError(index, shown(field), problem)
        event_id = element.get(form.id_field)
        if isinstance(event_id, str) and first_with.setdefault(event_id, index) != index:
            yield repeated_id(index, first_with[event_id], form.id_field)


def not_an_object(index: int, element: object) -> ElementError:
    return ElementError(index, "", f"must be an object, is {json_type(element)}")


def unfit_time(index: int) -> ElementError:
    return ElementError(index, "Time", _UNFIT_TIME)


def unfit_user(index: int, user: str, max_characters: int) -> ElementError:
    return ElementError(index, "UserID", _unfit_length(user, max_characters))


def repeated_id(index: int, first: int, field: str = "ID") -> ElementError:
    return ElementError(index, field, f"is the ID of element {first} too")


def is_moment(time: str) -> bool:
    """Whether a well-formed date-time exists (no 31 April, no leap second)."""
    try:
        datetime.fromisoformat(time.upper())
    except ValueError:
        return False
    return True


def text_check(
    max_characters: int, pattern: str = "", unfit: str = "", *, nullable: bool = True
) -> Check:
    """Make a check for a string of 1 to `max_characters` that holds `pattern`."""
    fits = re.compile(pattern)

    def check(value: object) -> str:
        if value is None and nullable:
            return ""
        if not isinstance(value, str):
            return f"must be a string, is {json_type(value)}"
        if not 1 <= len(value) <= max_characters:
            return _unfit_length(value, max_characters)
        if not _is_unicode(value):
            return _SURROGATE
        return "" if fits.search(value) else unfit

    return check


def json_problem(value: object) -> str:
    """What is wrong with any JSON value, read leniently."""
    try:
        return "" if _is_unicode(json.dumps(value, ensure_ascii=False)) else _SURROGATE
    except RecursionError as error:
        raise MalformedBody(TOO_DEEP) from error


def time_problem(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and re.search(DATE_TIME, value) and is_moment(value):
        return ""
    return _UNFIT_TIME


def shown(field: str) -> str:
    """A field's name as an answer can carry it: short, without lone surrogates."""
    return field[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def json_type(value: object) -> str:
    return _TYPE_NAMES.get(type(value), "null")


_TYPE_NAMES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    bytes: "no UTF-8",  # a header's value
}


def _explain_json(found: object, form: Form, max_events: int) -> KeylaneError | None:
    if not isinstance(found, dict) and not (form.takes_many and isinstance(found, list)):
        return InvalidEvents((), form.body)
    elements = found if isinstance(found, list) else [found]
    if len(elements) > max_events:
        return TooManyEvents(len(elements), max_events)
    try:
        errors = list(element_errors(elements, form))
    except MalformedBody as error:
        return error
    return InvalidEvents(errors) if errors else None


def _problems(
    element: dict[str, object], form: Form, *, may_guess: bool
) -> Iterator[tuple[str, str]]:
    for field in form.required:
        if field not in element:
            yield field, "is required"
    for field, value in element.items():
        check = form.checks.get(field)
        problem = check(value) if check else _unknown(field, form, may_guess=may_guess)
        if problem:
            yield field, problem


def _unknown(field: str, form: Form, *, may_guess: bool) -> str:
    known = {name.lower(): name for name in form.checks} if may_guess else {}
    near = difflib.get_close_matches(field[:SHOWN_CHARACTERS].lower(), known, 1)
    is_none = f"is no field of {form.noun}"
    return f"{is_none}; did you mean {known[near[0]]}?" if near else f"{is_none}; {form.unknown}"


def _unfit_length(text: str, max_characters: int) -> str:
    return f"must have 1 to {max_characters} characters, has {len(text)}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _integer(digits: str) -> float:
    # A number of any length must neither cost nor fail here.
    return int(digits) if len(digits) <= _INTEGER_CHARACTERS else float(digits)
