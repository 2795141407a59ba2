"""What can be known of payloads that fit several parts of a JSON Schema at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ingest.schemas.formats import FORMATS
from ingest.schemas.jsontext import is_whole
from ingest.schemas.keywords import frozen
from ingest.schemas.validator import validator_class

#: Combinations of alternatives beyond which they are not told apart.
MAX_CASES: Final = 64

#: `fraction` is a number that is no integer.
_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "number": frozenset({"integer", "fraction"}),
    **{
        name: frozenset({name})
        for name in ("array", "boolean", "integer", "null", "object", "string")
    },
}
_NAMES: Final[Mapping[type, str]] = {
    list: "array",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    str: "string",
}
ALL_KINDS: Final = frozenset().union(*_KINDS.values())
_validator: Final = validator_class(remembers=False)


class Part(NamedTuple):
    """A schema and what its references mean."""

    schema: Any
    resolver: Any

    def inner(self, schema: Any) -> Part:
        if not isinstance(schema, dict) or not isinstance(schema.get("$id"), str):
            return Part(schema, self.resolver)
        resource = DRAFT202012.create_resource(schema)
        return Part(schema, self.resolver.in_subresource(resource))

    def target(self) -> Part | None:
        """What its `$ref` leads to; None if that is not there."""
        try:
            found = self.resolver.lookup(self.schema["$ref"])
        except Unresolvable:
            return None
        return Part(found.contents, found.resolver)

    def members(self, keyword: str) -> dict[str, Part]:
        return {name: self.inner(s) for name, s in self.schema.get(keyword, {}).items()}

    def accepts(self, value: Any) -> bool:
        return not any(self.errors(value))

    def errors(self, value: Any) -> Iterator[Any]:
        validator = _validator(self.schema, _resolver=self.resolver, format_checker=FORMATS)
        yield from validator.iter_errors(value)


#: Parts that a payload fits all of; each is an object of keywords.
Case: TypeAlias = tuple[Part, ...]


def flat(parts: Sequence[Part]) -> Case | None:
    """The parts with all that they refer to; None if nothing fits them."""
    found: dict[int, Part] = {}
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        if part.schema is False:
            return None
        if part.schema is True or id(part.schema) in found:
            continue
        found[id(part.schema)] = part
        if "$ref" in part.schema and (target := part.target()):
            waiting.append(target)
        waiting += map(part.inner, part.schema.get("allOf", ()))
    return tuple(found.values())


def cases(parts: Sequence[Part]) -> list[Case]:
    """All ways to fit the parts: one for each choice of alternatives (`anyOf`, `oneOf`)."""
    start = flat(parts)
    if start is None:
        return []
    done: list[Case] = []
    waiting: list[tuple[Case, frozenset[tuple[int, str]]]] = [(start, frozenset())]
    while waiting:
        case, chosen = waiting.pop()
        choice = _choice(case, chosen)
        if choice is None:
            done.append(case)
            continue
        part, keyword = choice
        for alternative in part.schema[keyword]:
            more = flat((*case, part.inner(alternative)))
            if more is not None:
                waiting.append((more, chosen | {(id(part.schema), keyword)}))
        if len(waiting) + len(done) > MAX_CASES:
            return [start]
    return done


def _choice(case: Case, chosen: frozenset[tuple[int, str]]) -> tuple[Part, str] | None:
    return next(
        (
            (part, keyword)
            for part in case
            for keyword in ("anyOf", "oneOf")
            if keyword in part.schema and (id(part.schema), keyword) not in chosen
        ),
        None,
    )


def kinds_of(case: Sequence[Part]) -> frozenset[str]:
    """The kinds of values that may fit."""
    kinds = ALL_KINDS
    for part in case:
        kinds &= kinds_in(part)
        listed = _listed(part)
        if listed is not None:
            kinds &= frozenset(map(_kind, listed))
    return kinds - frozenset(_impossible(case))


def kinds_in(part: Part) -> frozenset[str]:
    names = part.schema.get("type", list(_KINDS))
    listed = [names] if isinstance(names, str) else names
    return frozenset().union(*(_KINDS[name] for name in listed))


def _kind(value: Any) -> str:
    if is_whole(value):
        return "integer"
    return _NAMES.get(type(value), "fraction")


def _impossible(case: Sequence[Part]) -> Iterator[str]:
    if least(case, "minLength") > most(case, "maxLength"):
        yield "string"
    if least(case, "minItems") > most(case, "maxItems"):
        yield "array"
    if max(least(case, "minProperties"), len(required(case))) > most(case, "maxProperties"):
        yield "object"


def values_of(case: Sequence[Part]) -> list[Any] | None:
    """Every value that fits, if they are listed; else None."""
    listed = next((found for part in case if (found := _listed(part)) is not None), None)
    if listed is None:
        kinds = kinds_of(case)
        if kinds - {"null", "boolean"}:
            return None
        listed = [None, False, True]
    return [value for value in listed if all(part.accepts(value) for part in case)]


def _listed(part: Part) -> list[Any] | None:
    if "const" in part.schema:
        return [part.schema["const"]]
    values: list[Any] | None = part.schema.get("enum")
    return values


def least(case: Sequence[Part], keyword: str) -> int:
    """The highest of such lower bounds on a count."""
    return max((part.schema.get(keyword, 0) for part in case), default=0)


def most(case: Sequence[Part], keyword: str) -> float:
    return min((part.schema.get(keyword, float("inf")) for part in case), default=float("inf"))


def required(case: Sequence[Part]) -> frozenset[str]:
    return frozenset().union(*(part.schema.get("required", ()) for part in case))


def about_member(part: Part, name: str) -> list[Part]:
    """What a part says about the member of that name."""
    found = [part.inner(s) for s in [part.schema.get("properties", {}).get(name)] if s is not None]
    for pattern, schema in part.schema.get("patternProperties", {}).items():
        if re.search(pattern, name):
            found.append(part.inner(schema))
    return found or [others(part)]


def others(part: Part) -> Part:
    """What a part says about members that it does not name."""
    return part.inner(part.schema.get("additionalProperties", True))


def same(one: Part, other: Part) -> bool:
    """Whether two schemas are written alike, and what they refer to is too."""
    return _same(one, other, set())


def _same(one: Part, other: Part, seen: set[tuple[int, int]]) -> bool:
    a, b = one.schema, other.schema
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys() or "$dynamicRef" in a:
            return False
        if isinstance(a.get("$ref"), str) and not _same_target(one, other, seen):
            return False
        return all(_same(one.inner(a[k]), other.inner(b[k]), seen) for k in a if k != "$ref")
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(
            _same(one.inner(x), other.inner(y), seen) for x, y in zip(a, b, strict=True)
        )
    return frozen(a) == frozen(b)


def _same_target(one: Part, other: Part, seen: set[tuple[int, int]]) -> bool:
    if not isinstance(other.schema["$ref"], str):
        return False
    to, other_to = one.target(), other.target()
    if to is None or other_to is None:
        return False
    pair = (id(to.schema), id(other_to.schema))
    if pair in seen:
        return True
    seen.add(pair)
    return _same(to, other_to, seen)
