"""Whether every document that fits one JSON Schema fits another.

Nothing is called compatible that is not. What can't be decided (`not`, `if`, alternatives that take
a document only together) counts as a break that is not certain, unless both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from ingest.schemas.compatibility import Break, broken
from ingest.schemas.jsonschemas import JsonSchema
from ingest.schemas.jsontext import written
from ingest.schemas.keywords import frozen
from ingest.schemas.nested import of_arrays, of_objects
from ingest.schemas.parts import (
    Case,
    Part,
    about_member,
    cases,
    flat,
    kinds_in,
    kinds_of,
    required,
    same,
    values_of,
)
from ingest.schemas.scalars import of_numbers, of_strings
from ingest.schemas.violations import Path, PayloadSchema
from ingest.schemas.words import in_words, types

_NUMBERS: Final = frozenset({"integer", "fraction"})
#: Keywords that are not looked into, with those that belong to them.
_OPAQUE: Final = {
    "not": ("not",),
    "if": ("if", "then", "else"),
    "dependentSchemas": ("dependentSchemas",),
    "$dynamicRef": ("$dynamicRef",),
}
#: Keywords whose meaning depends on all others around them.
_AROUND: Final = ("unevaluatedItems", "unevaluatedProperties")
_ONE_KIND: Final = tuple(
    Part({"type": name}, None)
    for name in ("null", "boolean", "number", "string", "array", "object")
)


def breaks(writer: PayloadSchema, reader: PayloadSchema) -> list[Break]:
    """What fits `writer` and not `reader`."""
    old, new = cast("JsonSchema", writer), cast("JsonSchema", reader)
    try:
        return _Comparison().check(
            [Part(old.document, old.resolver)], Part(new.document, new.resolver), ()
        )
    except RecursionError:
        return [broken((), "is nested too deeply to be compared", is_certain=False)]


class _Comparison:
    def __init__(self) -> None:
        self._under_way: set[tuple[frozenset[int], int]] = set()

    def check(self, old: Sequence[Part], new: Part, path: Path) -> list[Break]:
        """What stands in the way from documents that fit all of `old` to `new`."""
        return [found for case in cases(old) for found in self._from_case(case, new, path)]

    def _from_case(self, case: Case, new: Part, path: Path) -> list[Break]:
        if new.schema is True or any(same(part, new) for part in case):
            return []
        pair = (frozenset(id(part.schema) for part in case), id(new.schema))
        if pair in self._under_way:
            return []  # it holds itself: whatever breaks does so on the way here
        self._under_way.add(pair)
        try:
            return self._from_new_case(case, new, path)
        finally:
            self._under_way.discard(pair)

    def _from_new_case(self, case: Case, new: Part, path: Path) -> list[Break]:
        values = values_of(case)
        if values is not None:
            return [found for value in values for found in _of_value(value, new, path)]
        kinds = kinds_of(case)
        if not kinds:
            return []
        if new.schema is False:
            return [broken(path, "nothing is allowed any more")]
        return [
            *self._of_kinds(case, new, kinds, path),
            *self._of_all(case, new, path),
            *self._of_alternatives(case, new, path),
            *_of_opaque(case, new, path),
        ]

    def _of_kinds(
        self, case: Case, new: Part, kinds: frozenset[str], path: Path
    ) -> Iterator[Break]:
        if lost := kinds - kinds_in(new):
            yield broken(path, f"type narrowed: {_kinds_in_words(lost)} is no longer accepted")
        for keyword in ("const", "enum"):
            if keyword in new.schema:
                yield broken(path, f"{keyword} {written(new.schema[keyword])} added")
        kept = kinds & kinds_in(new)
        if kept & _NUMBERS:
            yield from of_numbers(case, new, kept, path)
        if "string" in kept:
            yield from of_strings(case, new, path)
        if "array" in kept:
            yield from of_arrays(case, new, path, self.check)
        if "object" in kept:
            yield from of_objects(case, new, path, self.check)

    def _of_all(self, case: Case, new: Part, path: Path) -> Iterator[Break]:
        for schema in new.schema.get("allOf", ()):
            yield from self._from_case(case, new.inner(schema), path)
        if "$ref" in new.schema:
            target = new.target()
            if target is not None:
                yield from self._from_case(case, target, path)
            else:
                yield broken(path, f"$ref {new.schema['$ref']} can't be followed", is_certain=False)

    def _of_alternatives(self, case: Case, new: Part, path: Path) -> Iterator[Break]:
        for keyword in ("anyOf", "oneOf"):
            if keyword not in new.schema or _has_same(case, new, (keyword,)):
                continue
            alone = Part({keyword: new.schema[keyword]}, new.resolver)
            for one_kind in _ONE_KIND:
                narrow = (*case, one_kind)
                values = values_of(narrow)
                if values is not None:
                    for value in values:
                        yield from _of_value(value, alone, path)
                elif kinds_of(narrow):
                    yield from self._of_branches(narrow, alone, keyword, path)

    def _of_branches(self, case: Case, new: Part, keyword: str, path: Path) -> Iterator[Break]:
        if _are_apart(case, case):
            return  # nothing fits it
        branches = [new.inner(schema) for schema in new.schema[keyword]]
        possible = [branch for branch in branches if not _are_disjoint(case, branch)]
        found = [self._from_case(case, branch, path) for branch in possible]
        if not possible:
            kinds = _kinds_in_words(kinds_of(case))
            yield broken(path, f"{kinds} like this is in no alternative of {keyword} any more")
        elif len(possible) == 1:
            yield from found[0]
        elif keyword == "oneOf":
            yield broken(path, "oneOf: several alternatives may take it", is_certain=False)
        elif all(found):
            why = "no alternative of anyOf takes all that was accepted"
            yield broken(path, why, is_certain=False)


def _of_value(value: Any, new: Part, path: Path) -> Iterator[Break]:
    if new.schema is False:
        yield broken(path, "nothing is allowed any more")
        return
    for error in new.errors(value):
        if error.validator in {"enum", "const"} and not error.absolute_path:
            yield broken(path, f"{error.validator} value removed: {written(value)}")
        else:
            for place, detail in in_words(error):
                yield broken((*path, *place), f"{written(value)} {detail}")


def _of_opaque(case: Case, new: Part, path: Path) -> Iterator[Break]:
    for keyword, group in _OPAQUE.items():
        if keyword in new.schema and not _has_same(case, new, group):
            yield broken(path, f"{keyword}: can't be compared", is_certain=False)
    # Where the whole part is the same this is not reached.
    for keyword in _AROUND:
        if new.schema.get(keyword, True) is not True:
            yield broken(path, f"{keyword}: can't be compared", is_certain=False)


def _has_same(case: Case, new: Part, group: tuple[str, ...]) -> bool:
    """Whether a part of the case says the same with these keywords."""
    wanted = Part({k: new.schema[k] for k in group if k in new.schema}, new.resolver)
    return any(
        same(Part({k: part.schema[k] for k in group if k in part.schema}, part.resolver), wanted)
        for part in case
    )


def _are_disjoint(case: Case, branch: Part) -> bool:
    """Whether nothing fits both, for sure."""
    ways = cases([branch])
    return all(_are_apart(case, way) for way in ways)


def _are_apart(case: Case, way: Case) -> bool:
    kinds = kinds_of((*case, *way))
    if not kinds:
        return True
    if kinds != {"object"}:
        return False
    names = {name for part in (*case, *way) for name in part.schema.get("properties", {})}
    return any(
        _values_are_apart(case, way, name) for name in names & (required(case) | required(way))
    )


def _values_are_apart(case: Case, way: Case, name: str) -> bool:
    """Whether what one version asks of a member is never what the other does."""
    mine, theirs = _values_at(case, name), _values_at(way, name)
    return (
        mine is not None
        and theirs is not None
        and not {*map(frozen, mine)} & {*map(frozen, theirs)}
    )


def _values_at(case: Case, name: str) -> list[Any] | None:
    about = flat([found for part in case for found in about_member(part, name)])
    return [] if about is None else values_of(about)


def _kinds_in_words(kinds: frozenset[str]) -> str:
    if kinds >= _NUMBERS:
        kinds = kinds - _NUMBERS | {"number"}
    return " or ".join(
        "a number with a fraction" if name == "fraction" else types(name) for name in sorted(kinds)
    )
