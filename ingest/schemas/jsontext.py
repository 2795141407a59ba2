"""JSON read exactly: no number is rounded, so `19.99` is a multiple of `0.01`."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final, NoReturn

#: Each level takes a dozen frames of the validator, and the stack has a thousand.
MAX_DEPTH: Final = 64
#: More digits make an integer a Decimal: to convert them would take quadratic time.
_INTEGER_DIGITS: Final = 4_000


def read_json(text: bytes) -> Any:
    """Read a JSON text; a fraction becomes a Decimal. Of a repeated name the last value counts.

    Raises `ValueError`, and `RecursionError` for what is nested deeper than `MAX_DEPTH`.
    """
    value = _read(text)
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and depth(value) > MAX_DEPTH:
        raise RecursionError
    return value


def _read(text: bytes) -> Any:
    try:
        try:
            return json.loads(text, parse_float=Decimal, parse_constant=_refuse)
        except json.JSONDecodeError:
            raise
        except ValueError:
            return json.loads(text, parse_float=Decimal, parse_constant=_refuse, parse_int=_integer)
    except ArithmeticError as error:
        raise ValueError("holds a number that is out of range") from error


def depth(value: object) -> int:
    """How many arrays and objects stand within each other."""
    levels = 0
    level = [value] if isinstance(value, dict | list) else []
    while level:
        levels += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return levels


def json_type(value: object) -> str:
    """What kind of JSON value this is, with its article."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "a number"


def is_whole(value: object) -> bool:
    """Whether this is an integer, as JSON Schema means it: `1.0` is one."""
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def written(value: object) -> str:
    """A value in JSON, for messages."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    assert isinstance(value, Decimal)  # noqa: S101  all else is JSON
    return int(value) if is_whole(value) and value.adjusted() < _SHORT else float(value)


_SHORT: Final = 15


def _integer(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _INTEGER_DIGITS else Decimal(digits)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")
