"""What a part of a JSON Schema asks of numbers and strings that others don't."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from ingest.schemas.compatibility import Break, broken
from ingest.schemas.jsontext import written
from ingest.schemas.keywords import multiple_of
from ingest.schemas.parts import Part, least, most
from ingest.schemas.violations import Path

#: Bounds that are larger are not rounded to integers.
_MAX_DIGITS: Final = 30
_BOUNDS: Final = ((("minimum", "exclusiveMinimum"), 1), (("maximum", "exclusiveMaximum"), -1))
_STRICT: Final = frozenset({"exclusiveMinimum", "exclusiveMaximum"})


class _Bound(NamedTuple):
    """A bound as a value that grows with its strictness; upper ones are negative."""

    at: int | Decimal
    is_exclusive: bool


def of_numbers(
    case: Sequence[Part], new: Part, kinds: frozenset[str], path: Path
) -> Iterator[Break]:
    """What stands in the way of the numbers that fit `case`."""
    are_whole = "fraction" not in kinds
    for names, sign in _BOUNDS:
        had = _bound(case, names, sign, are_whole=are_whole)
        for name in names:
            asked = _bound([new], (name,), sign, are_whole=are_whole)
            if asked is not None and (had is None or had < asked):
                yield broken(path, _changed(name, _told(case, name), new.schema[name]))
    divisor = new.schema.get("multipleOf")
    if divisor is not None:
        divisors = [part.schema["multipleOf"] for part in case if "multipleOf" in part.schema]
        known = [*divisors, 1] if are_whole else divisors
        if not any(multiple_of(had, divisor) for had in known):
            yield broken(path, _changed("multipleOf", divisors[:1], divisor))


def of_strings(case: Sequence[Part], new: Part, path: Path) -> Iterator[Break]:
    """What stands in the way of the strings that fit `case`."""
    yield from of_counts(case, new, path, "minLength", "maxLength")
    for keyword in ("pattern", "format"):
        if keyword in new.schema:
            had = [part.schema[keyword] for part in case if keyword in part.schema]
            if new.schema[keyword] not in had:
                yield broken(
                    path,
                    _changed(keyword, had[:1], new.schema[keyword]),
                    # Whether one pattern lets through what the other does can't be told.
                    is_certain=not had,
                )


def of_counts(
    case: Sequence[Part],
    new: Part,
    path: Path,
    low: str,
    high: str,
    known: tuple[float, float] = (0, math.inf),
) -> Iterator[Break]:
    """Bounds on a count; `known` are those that follow from something else."""
    had_least = max(least(case, low), known[0])
    if least([new], low) > had_least:
        yield broken(path, _changed(low, [had_least] if had_least else [], new.schema[low]))
    had_most = min(most(case, high), known[1])
    if most([new], high) < had_most:
        had = [had_most] if had_most < math.inf else []
        yield broken(path, _changed(high, had, new.schema[high]))


def _bound(
    parts: Sequence[Part], names: Sequence[str], sign: int, *, are_whole: bool
) -> _Bound | None:
    """The strictest of the bounds."""
    found = [
        _rounded(_Bound(sign * part.schema[name], name in _STRICT), are_whole=are_whole)
        for part in parts
        for name in names
        if name in part.schema
    ]
    return max(found, default=None)


def _rounded(bound: _Bound, *, are_whole: bool) -> _Bound:
    if not are_whole or Decimal(bound.at).adjusted() > _MAX_DIGITS:
        return bound
    at = math.floor(bound.at) + 1 if bound.is_exclusive else math.ceil(bound.at)
    return _Bound(at, is_exclusive=False)


def _told(case: Sequence[Part], name: str) -> list[Any]:
    return [part.schema[name] for part in case if name in part.schema][:1]


def _changed(keyword: str, had: Sequence[Any], now: Any) -> str:
    if not had:
        return f"{keyword} {written(now)} added"
    return f"{keyword} changed from {written(had[0])} to {written(now)}"
