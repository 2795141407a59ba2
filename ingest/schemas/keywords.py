"""JSON Schema's keywords where the library is inexact, slow on purpose-made input, or mute.

- Numbers are exact: `1.0` is an integer however large, `multipleOf` does not round.
- `uniqueItems` takes linear time; the library's compares every pair of objects.
- An error about a member leads to the member.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from jsonschema import ValidationError


def multiple_of(value: int | Decimal, divisor: int | Decimal) -> bool:
    """Whether `value` divided by `divisor` is whole; quick for any exponent."""
    digits, exponent = _parts(value)
    by_digits, by_exponent = _parts(divisor)
    surplus = exponent - by_exponent
    if surplus >= 0:
        return digits * pow(10, surplus, by_digits) % by_digits == 0
    # More zeros than the value has digits can't all be divided away.
    return not digits or (-surplus <= len(str(digits)) and digits % (by_digits * 10**-surplus) == 0)


def _parts(value: int | Decimal) -> tuple[int, int]:
    """The number as digits and a power of ten."""
    if isinstance(value, int):
        return abs(value), 0
    _, digits, exponent = value.as_tuple()
    return int(Decimal((0, digits, 0))), int(exponent)


def frozen(value: Any) -> Hashable:
    """Equal for values that JSON Schema calls equal: `1` and `1.0`, not `1` and `true`."""
    if isinstance(value, dict):
        return frozenset((name, frozen(member)) for name, member in value.items())
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    return (bool, value) if isinstance(value, bool) else value


def additional(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """The members that neither `properties` nor `patternProperties` speak of."""
    named = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    return [
        name
        for name in instance
        if name not in named and not any(re.search(pattern, name) for pattern in patterns)
    ]


def _multiple_of(
    validator: Any, divisor: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not multiple_of(instance, divisor):
        yield ValidationError("")


def _unique_items(
    validator: Any, unique: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if (
        unique
        and validator.is_type(instance, "array")
        and len({frozen(item) for item in instance}) < len(instance)
    ):
        yield ValidationError("")


def _required(validator: Any, names: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name in names:
            if name not in instance:
                yield ValidationError("is required", path=[name])


def _dependent_required(
    validator: Any, needs: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name, others in needs.items():
            for other in others if name in instance else ():
                if other not in instance:
                    yield ValidationError(f"is required where {name} is", path=[other])


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name in additional(instance, schema):
            yield from _member(validator, instance, name, allowed)


def _properties(
    validator: Any, properties: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name, asked in properties.items():
            if name in instance:
                yield from _member(validator, instance, name, asked)


def _member(validator: Any, instance: Any, name: str, asked: Any) -> Iterator[ValidationError]:
    if asked is False:
        # The library's own error would lead to the object around it.
        yield ValidationError("is not allowed", path=[name])
    else:
        yield from validator.descend(instance[name], asked, path=name, schema_path=name)


def _property_names(
    validator: Any, names: Any, instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name in instance:
            for error in validator.descend(name, names):
                yield ValidationError("has a name that is not allowed", path=[name], cause=error)


KEYWORDS: Final[Mapping[str, Any]] = {
    "additionalProperties": _additional_properties,
    "dependentRequired": _dependent_required,
    "multipleOf": _multiple_of,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "uniqueItems": _unique_items,
}
