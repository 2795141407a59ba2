"""Avro: definitions that fastavro reads, and payloads in binary form that are walked here.

Payloads come from senders that may mean harm. fastavro's reader makes what an announced count says,
takes indices below zero, and a value that is nested deeply ends the process. The walk makes no
values: it only finds out where each ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from fastavro.schema import SchemaParseException, UnknownType, parse_schema

from ingest.schemas.avrojson import json_violations
from ingest.schemas.violations import Language, NotASchema, Violation, cut

SUFFIX: Final = ".avsc"

#: Reads one value that begins at an offset and returns the offset behind it.
_Walk: TypeAlias = Callable[[bytes, int], int]

_VARINT_BYTES: Final = {"int": 5, "long": 10}
_BITS: Final = {"int": 32, "long": 64}
_SIZES: Final = {"float": 4, "double": 8}


class AvroSchema:
    """One definition; payloads are single values without a header."""

    def __init__(
        self, name: str, definition: Definition, language: Language = Language.AVRO
    ) -> None:
        self.name = name
        self.language = language
        self.definition = definition
        self._walk = _Walks(definition.named).of(definition.root)

    def violations(self, payload: bytes) -> Iterator[Violation]:
        if self.language is Language.JSON:
            yield from self.violations_in_json(payload)
            return
        try:
            end = self._walk(payload, 0)
        except _Unfit as unfit:
            yield Violation(tuple(reversed(unfit.path)), unfit.detail)
            return
        if end < len(payload):
            yield Violation((), f"ends after {end} bytes, has {len(payload)}")

    def violations_in_json(self, payload: bytes) -> Iterator[Violation]:
        """Check a record that was written as plain JSON, as Pulsar's own clients write it."""
        yield from json_violations(self.definition.root, self.definition.named, payload)


class Definition:
    """A definition with all its named types; raises `NotASchema`."""

    def __init__(self, content: bytes) -> None:
        self.named: dict[str, Any] = {}
        try:
            self.root: Any = parse_schema(json.loads(content), self.named)
        except (SchemaParseException, UnknownType) as error:
            raise NotASchema(cut(f"is no Avro definition: {error}")) from error
        except ValueError as error:
            raise NotASchema(cut(f"is not JSON: {error}")) from error
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            # What fastavro ends with where a member is missing or of another type.
            raise NotASchema(
                cut(f"is no Avro definition ({type(error).__name__}: {error})")
            ) from error


class _Unfit(Exception):  # noqa: N818  named by the fact
    """These bytes are no such value; `path` grows on the way out."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.path: list[str | int] = []


class _Walks:
    """Makes the walk of each type, once."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, _Walk] = {}

    def of(self, schema: Any) -> _Walk:
        if isinstance(schema, list):
            return self._union([self.of(branch) for branch in schema])
        if isinstance(schema, str):
            return _PRIMITIVES.get(schema) or self._by_name(schema)
        kind = schema["type"]
        if kind == "array":
            return _Blocks(None, self.of(schema["items"]))
        if kind == "map":
            return _Blocks(_string, self.of(schema["values"]))
        if kind in {"record", "error", "enum", "fixed"}:
            self._made[schema["name"]] = walk = self._of_named(schema)
            return walk
        return self.of(kind)

    def _by_name(self, name: str) -> _Walk:
        # Found when it is used: a type may hold itself.
        def walk(data: bytes, at: int) -> int:
            made = self._made.get(name)
            return (made or self.of(self._named[name]))(data, at)

        return walk

    def _of_named(self, schema: Any) -> _Walk:
        if schema["type"] == "enum":
            return _enum(len(schema["symbols"]))
        if schema["type"] == "fixed":
            return _fixed(schema["size"])
        return _record([(field["name"], self.of(field["type"])) for field in schema["fields"]])

    def _union(self, branches: list[_Walk]) -> _Walk:
        def walk(data: bytes, at: int) -> int:
            branch, at = _integer(data, at, "int")
            if not 0 <= branch < len(branches):
                raise _Unfit(f"is alternative {branch} of {len(branches)}")
            return branches[branch](data, at)

        return walk


def _record(fields: list[tuple[str, _Walk]]) -> _Walk:
    def walk(data: bytes, at: int) -> int:
        for name, field in fields:
            try:
                at = field(data, at)
            except _Unfit as unfit:
                unfit.path.append(name)
                raise
        return at

    return walk


class _Blocks:
    """An array, or a map when there are keys: blocks of items behind their count."""

    def __init__(self, key: _Walk | None, item: _Walk) -> None:
        self._key = key
        self._item = item

    def __call__(self, data: bytes, at: int) -> int:
        place = 0
        count, at = _integer(data, at, "long")
        while count:
            if count > 0:
                at = self._items(data, at, place, count)
            else:
                count = -count
                announced, begin = _integer(data, at, "long")
                at = self._items(data, begin, place, count)
                if at - begin != announced:
                    raise _Unfit("holds a block of another length than announced")
            place += count
            count, at = _integer(data, at, "long")
        return at

    def _items(self, data: bytes, at: int, place: int, count: int) -> int:
        for index in range(place, place + count):
            begin = at
            try:
                at = self._item(data, self._key(data, at) if self._key else at)
            except _Unfit as unfit:
                unfit.path.append(index)
                raise
            if at == begin:
                break  # so will be all the others: a count alone must not cost time
        return at


def _enum(symbols: int) -> _Walk:
    def walk(data: bytes, at: int) -> int:
        symbol, at = _integer(data, at, "int")
        if not 0 <= symbol < symbols:
            raise _Unfit(f"is symbol {symbol} of {symbols}")
        return at

    return walk


def _fixed(size: int) -> _Walk:
    def walk(data: bytes, at: int) -> int:
        return _skip(data, at, size)

    return walk


def _skip(data: bytes, at: int, size: int) -> int:
    if size < 0:
        raise _Unfit(f"has a length of {size}")
    if at + size > len(data):
        raise _Unfit(f"needs {size} bytes, {len(data) - at} are left")
    return at + size


def _integer(data: bytes, at: int, kind: str) -> tuple[int, int]:
    """A zigzag varint and the offset behind it."""
    value = shift = 0
    for end in range(at, at + _VARINT_BYTES[kind]):
        if end >= len(data):
            raise _Unfit("ends within a number")
        value |= (data[end] & 0x7F) << shift
        shift += 7
        if data[end] < 0x80:  # noqa: PLR2004  the bit that says that more follow
            if value >> _BITS[kind]:
                break
            return (value >> 1) ^ -(value & 1), end + 1
    raise _Unfit(f"is a number of more than {_BITS[kind]} bits")


def _bytes(data: bytes, at: int) -> int:
    size, at = _integer(data, at, "long")
    return _skip(data, at, size)


def _string(data: bytes, at: int) -> int:
    size, at = _integer(data, at, "long")
    end = _skip(data, at, size)
    try:
        data[at:end].decode()
    except UnicodeDecodeError as error:
        raise _Unfit("is not UTF-8") from error
    return end


def _boolean(data: bytes, at: int) -> int:
    end = _skip(data, at, 1)
    if data[at] > 1:
        raise _Unfit("is no boolean")
    return end


_PRIMITIVES: Final[Mapping[str, _Walk]] = {
    "null": lambda _data, at: at,
    "boolean": _boolean,
    "int": lambda data, at: _integer(data, at, "int")[1],
    "long": lambda data, at: _integer(data, at, "long")[1],
    **{kind: _fixed(size) for kind, size in _SIZES.items()},
    "bytes": _bytes,
    "string": _string,
}
