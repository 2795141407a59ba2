"""An error of JSON Schema in words that don't repeat the payload."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from jsonschema import ValidationError

from ingest.schemas.jsontext import json_type, written
from ingest.schemas.violations import Violation, cut

_TYPES: Final[Mapping[str, str]] = {
    "array": "an array",
    "boolean": "a boolean",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


def in_words(error: ValidationError) -> Iterator[Violation]:
    """What one error says; where one alternative was clearly meant, what is wrong with that."""
    if error.validator in {"anyOf", "oneOf"} and error.context:
        if meant := _meant(error):
            yield from chain.from_iterable(map(in_words, meant))
            return
        alternatives: Any = error.validator_value
        detail = f"fits none of the {len(alternatives)} alternatives ({error.validator})"
    else:
        detail = _detail(error)
    yield Violation(tuple(error.absolute_path), cut(detail))


def types(names: str | list[str]) -> str:
    """Such as `a string or null`."""
    listed = [names] if isinstance(names, str) else names
    return " or ".join(_TYPES.get(name, name) for name in listed)


def _meant(error: ValidationError) -> list[ValidationError]:
    """The errors of the only alternative whose type the value has; nothing if there are several."""
    by_branch: dict[Any, list[ValidationError]] = defaultdict(list)
    for inner in error.context or ():
        by_branch[inner.relative_schema_path[0]].append(inner)
    fitting = [
        errors
        for errors in by_branch.values()
        if not any(e.validator in {"type", None} and not e.relative_path for e in errors)
    ]
    return fitting[0] if len(fitting) == 1 else []


def _detail(error: ValidationError) -> str:
    keyword: Any = error.validator
    if keyword in _OWN_WORDS:
        return error.message
    if keyword is None:
        return "is not allowed"
    say = _WORDS.get(keyword)
    if say is None:
        return f"does not fit {keyword}"
    return say(error.validator_value, error.instance)


#: Keywords whose message is written where they are checked.
_OWN_WORDS: Final = frozenset(
    {"additionalProperties", "dependentRequired", "properties", "propertyNames", "required"}
)
_WORDS: Final[Mapping[str, Callable[[Any, Any], str]]] = {
    "type": lambda names, value: f"must be {types(names)}, is {json_type(value)}",
    "enum": lambda values, _: f"must be one of {', '.join(map(written, values))}",
    "const": lambda wanted, _: f"must be {written(wanted)}",
    "minimum": lambda bound, _: f"must be at least {written(bound)}",
    "maximum": lambda bound, _: f"must be at most {written(bound)}",
    "exclusiveMinimum": lambda bound, _: f"must be more than {written(bound)}",
    "exclusiveMaximum": lambda bound, _: f"must be less than {written(bound)}",
    "multipleOf": lambda divisor, _: f"must be a multiple of {written(divisor)}",
    "minLength": lambda n, text: f"must have at least {n} characters, has {len(text)}",
    "maxLength": lambda n, text: f"must have at most {n} characters, has {len(text)}",
    "pattern": lambda pattern, _: f"does not match {pattern}",
    "format": lambda name, _: f"is not of format {name}",
    "minItems": lambda n, items: f"must have at least {n} items, has {len(items)}",
    "maxItems": lambda n, items: f"must have at most {n} items, has {len(items)}",
    "uniqueItems": lambda _, __: "holds an item twice",
    "items": lambda _, __: "has more items than are allowed",
    "contains": lambda _, __: "holds no item of the kind that must be there",
    "minContains": lambda n, _: f"must hold at least {n} items of a kind",
    "maxContains": lambda n, _: f"must hold at most {n} items of a kind",
    "minProperties": lambda n, value: f"must have at least {n} members, has {len(value)}",
    "maxProperties": lambda n, value: f"must have at most {n} members, has {len(value)}",
    "not": lambda _, __: "is of a kind that is excluded (not)",
    "oneOf": lambda _, __: "fits more than one of the alternatives (oneOf)",
    "unevaluatedProperties": lambda _, __: "has members that are not allowed",
    "unevaluatedItems": lambda _, __: "has items that are not allowed",
}
