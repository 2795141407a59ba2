"""Whether one Protobuf message reads what was written with another, without losing anything.

That is stricter than Protobuf's own rule: a field that is gone would be kept as an unknown one, but
Keylane takes no payload with fields that its schema lacks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from google.protobuf.descriptor import FieldDescriptor as Field  # type: ignore[import-untyped]

from ingest.schemas.compatibility import Break, broken
from ingest.schemas.protobuf import ProtobufSchema
from ingest.schemas.violations import Path, PayloadSchema

_NAMES: Final[Mapping[int, str]] = {
    getattr(Field, name): name.removeprefix("TYPE_").lower()
    for name in dir(Field)
    if name.startswith("TYPE_")
}
#: What a written type may be read as without loss, besides itself.
_WIDER: Final[Mapping[str, frozenset[str]]] = {
    "int32": frozenset({"int64"}),
    "uint32": frozenset({"uint64", "int64"}),
    "bool": frozenset({"int32", "int64", "uint32", "uint64"}),
    "enum": frozenset({"int32", "int64"}),
    "sint32": frozenset({"sint64"}),
    "string": frozenset({"bytes"}),
}
_MESSAGES: Final = frozenset({"message", "group"})


def breaks(writer: PayloadSchema, reader: PayloadSchema) -> Iterator[Break]:
    """What readers would lose or misread."""
    old, new = cast("ProtobufSchema", writer), cast("ProtobufSchema", reader)
    return _Reading().check(old.descriptor, new.descriptor, ())


class _Reading:
    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def check(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        pair = (old.full_name, new.full_name)
        if pair in self._seen:
            return
        self._seen.add(pair)
        for number, field in sorted(old.fields_by_number.items()):
            place = (*path, field.name)
            if number in new.fields_by_number:
                yield from self._of_field(field, new.fields_by_number[number], place)
            else:
                yield broken(place, f"field {number} removed: its values would be unknown fields")
        for number, field in sorted(new.fields_by_number.items()):
            before = old.fields_by_number.get(number)
            if field.is_required and not (before and before.is_required):
                yield broken((*path, field.name), "required field added")
        yield from _of_choices(old, new, path)

    def _of_field(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        before, now = _NAMES[old.type], _NAMES[new.type]
        if before != now and now not in _WIDER.get(before, ()):
            if old.name != new.name:
                yield broken(
                    path, f"field number {old.number} reused: was {before}, is {now} {new.name}"
                )
            else:
                yield broken(path, f"type changed from {before} to {now}")
            return
        if old.name != new.name:
            why = f"field {old.number} is called {new.name}: renamed, or its number reused"
            yield broken(path, why, is_certain=False)
        if old.is_repeated and not new.is_repeated:
            yield broken(path, "repeated became single: only the last value would be kept")
        if now in _MESSAGES:
            yield from self.check(old.message_type, new.message_type, path)
        if now == "enum":
            yield from _of_values(old.enum_type, new.enum_type, path)


def _of_values(old: Any, new: Any, path: Path) -> Iterator[Break]:
    for number, value in sorted(old.values_by_number.items()):
        now = new.values_by_number.get(number)
        if now is None and new.is_closed:
            yield broken(path, f"enum value removed: {value.name} = {number}")
        elif now is not None and now.name != value.name:
            why = f"enum number {number} is called {now.name}, was {value.name}"
            yield broken(path, why, is_certain=False)


def _of_choices(old: Any, new: Any, path: Path) -> Iterator[Break]:
    """Fields that could both be set and now exclude each other."""
    for choice in new.oneofs:
        before: dict[Any, list[str]] = defaultdict(list)
        for field in choice.fields:
            source = old.fields_by_number.get(field.number)
            if source is not None:
                within = source.containing_oneof
                before[within.name if within else f"#{source.number}"].append(field.name)
        if len(before) > 1:
            yield broken(path, f"fields moved into oneof {choice.name}: only one would be kept")
