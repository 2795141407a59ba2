"""A record of Avro as plain JSON: how Pulsar's own clients write topics with a JSON schema.

Unions are not tagged, what may be null may be absent, bytes are text, and members that the record
does not have are let through: those clients drop them when they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ingest.schemas.jsontext import json_type, read_json
from ingest.schemas.violations import Path, Violation, cut

_BITS: Final = {"int": 31, "long": 63}
_NUMBERS: Final = frozenset({"float", "double"})
_TEXTS: Final = frozenset({"string", "bytes", "fixed"})


def json_violations(schema: Any, named: Mapping[str, Any], payload: bytes) -> Iterator[Violation]:
    try:
        value = read_json(payload)
    except ValueError as error:
        yield Violation((), cut(f"is not JSON: {error}"))
        return
    yield from _Check(named).violations(schema, value, ())


class _Check:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named

    def violations(self, schema: Any, value: Any, path: Path) -> Iterator[Violation]:
        schema = self._resolved(schema)
        if isinstance(schema, list):
            yield from self._of_union(schema, value, path)
            return
        kind = _kind(schema)
        if kind in {"record", "error"} and isinstance(value, dict):
            yield from self._of_record(schema, value, path)
        elif kind == "array" and isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.violations(schema["items"], item, (*path, index))
        elif kind == "map" and isinstance(value, dict):
            for name, member in value.items():
                yield from self.violations(schema["values"], member, (*path, name))
        elif problem := _problem(kind, schema, value):
            yield Violation(path, cut(problem))

    def _of_record(self, schema: Any, value: dict[str, Any], path: Path) -> Iterator[Violation]:
        for field in schema["fields"]:
            name = field["name"]
            if name in value:
                yield from self.violations(field["type"], value[name], (*path, name))
            elif "default" not in field and any(self.violations(field["type"], None, ())):
                yield Violation((*path, name), "is required")

    def _of_union(self, branches: list[Any], value: Any, path: Path) -> Iterator[Violation]:
        wrong = [list(self.violations(branch, value, path)) for branch in branches]
        if all(wrong):
            # The alternative that got furthest was meant; at equal depth none was.
            inside = [found for found in wrong if len(found[0].path) > len(path)]
            if len(inside) == 1:
                yield from inside[0]
                return
            names = " or ".join(_kind(self._resolved(branch)) for branch in branches)
            yield Violation(path, cut(f"must be {names}, is {json_type(value)}"))

    def _resolved(self, schema: Any) -> Any:
        """What a name, or an object that only names a type, stands for."""
        while True:
            if isinstance(schema, str) and schema in self._named:
                schema = self._named[schema]
            elif isinstance(schema, dict) and isinstance(schema["type"], dict | list):
                schema = schema["type"]
            else:
                return schema


def _kind(schema: Any) -> str:
    return str(schema if isinstance(schema, str) else schema["type"])


def _problem(kind: str, schema: Any, value: Any) -> str:
    if kind == "enum":
        symbols = schema["symbols"]
        return "" if value in symbols else f"must be one of {', '.join(symbols)}"
    if _fits(kind, schema, value):
        return ""
    return f"must be {kind}, is {json_type(value)}"


def _fits(kind: str, schema: Any, value: Any) -> bool:
    is_number = json_type(value) == "a number"
    if kind in _BITS:
        return (
            isinstance(value, int) and is_number and -1 << _BITS[kind] <= value < 1 << _BITS[kind]
        )
    if kind in _NUMBERS:
        return is_number
    if kind in _TEXTS:
        is_decimal = isinstance(schema, dict) and schema.get("logicalType") == "decimal"
        return isinstance(value, str) or (is_decimal and is_number)
    if kind == "boolean":
        return isinstance(value, bool)
    return kind == "null" and value is None
