"""Whether a reader's Avro definition resolves what was written with another (Avro 1.12)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from ingest.schemas.avro import AvroSchema
from ingest.schemas.compatibility import Break, broken
from ingest.schemas.violations import Path, PayloadSchema

_ANY: Final = "*"
#: What a written type may be read as, besides itself.
_PROMOTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_RECORDS: Final = ("record", "error")
_NAMED: Final = (*_RECORDS, "enum", "fixed")


def breaks(writer: PayloadSchema, reader: PayloadSchema) -> Iterator[Break]:
    """What readers can't resolve; writers' definitions are known to them."""
    old, new = cast("AvroSchema", writer).definition, cast("AvroSchema", reader).definition
    return _Resolution(old.named, new.named).check(old.root, new.root, ())


class _Resolution:
    def __init__(self, old_named: Mapping[str, Any], new_named: Mapping[str, Any]) -> None:
        self._old_named = old_named
        self._new_named = new_named
        self._under_way: set[tuple[str, str]] = set()

    def check(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        old, new = _resolved(old, self._old_named), _resolved(new, self._new_named)
        if isinstance(old, list):
            for branch in old:
                yield from self.check(branch, new, path)
        elif isinstance(new, list):
            yield from self._to_union(old, new, path)
        elif _kind(old) != _kind(new) and not (_kind(old) in _RECORDS and _kind(new) in _RECORDS):
            if _kind(new) not in _PROMOTIONS.get(_kind(old), ()):
                yield broken(path, f"type {_kind(old)} can't be read as {_kind(new)}")
        else:
            yield from self._of_like(old, new, path)

    def _to_union(self, old: Any, branches: list[Any], path: Path) -> Iterator[Break]:
        found = [list(self.check(old, branch, path)) for branch in branches]
        if not all(found):
            return
        like = [
            one
            for one, branch in zip(found, branches, strict=True)
            if _kind(_resolved(branch, self._new_named)) == _kind(old)
        ]
        if len(like) == 1:
            yield from like[0]
        else:
            yield broken(path, f"type {_kind(old)} is in no alternative of the union any more")

    def _of_like(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        kind = _kind(new)
        if kind in _NAMED:
            pair = (old["name"], new["name"])
            if pair in self._under_way:
                return
            self._under_way.add(pair)
            yield from self._of_named(old, new, path)
            self._under_way.discard(pair)
        elif kind == "array":
            yield from self.check(old["items"], new["items"], (*path, _ANY))
        elif kind == "map":
            yield from self.check(old["values"], new["values"], (*path, _ANY))
        yield from _of_logical(old, new, path)

    def _of_named(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        if not _is_called(new, old["name"]):
            yield broken(path, f"{_kind(old)} renamed from {old['name']} to {new['name']}")
        elif _kind(new) == "enum":
            yield from _of_symbols(old, new, path)
        elif _kind(new) == "fixed":
            if old["size"] != new["size"]:
                yield broken(path, f"size changed from {old['size']} to {new['size']}")
        else:
            yield from self._of_fields(old, new, path)

    def _of_fields(self, old: Any, new: Any, path: Path) -> Iterator[Break]:
        written = {field["name"]: field for field in old["fields"]}
        for field in new["fields"]:
            names = [field["name"], *field.get("aliases", ())]
            source = next((written[name] for name in names if name in written), None)
            place = (*path, field["name"])
            if source is not None:
                yield from self.check(source["type"], field["type"], place)
            elif "default" not in field:
                yield broken(place, "field without default added")


def _resolved(schema: Any, named: Mapping[str, Any]) -> Any:
    """What a name, or an object that only wraps a type, stands for."""
    while True:
        if isinstance(schema, str) and schema in named:
            schema = named[schema]
        elif isinstance(schema, dict) and isinstance(schema["type"], dict | list):
            schema = schema["type"]
        else:
            return schema


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _is_called(new: Any, name: str) -> bool:
    """By the last part of the name, or an alias."""
    last = name.rpartition(".")[2]
    aliases = [alias.rpartition(".")[2] for alias in new.get("aliases", ())]
    return last in {new["name"].rpartition(".")[2], *aliases}


def _of_symbols(old: Any, new: Any, path: Path) -> Iterator[Break]:
    if "default" not in new:
        for symbol in old["symbols"]:
            if symbol not in new["symbols"]:
                yield broken(path, f"enum symbol removed: {symbol}")


def _of_logical(old: Any, new: Any, path: Path) -> Iterator[Break]:
    """The same bytes mean something else, which no reader notices."""
    before, now = (
        schema.get("logicalType") if isinstance(schema, dict) else None for schema in (old, new)
    )
    if before and now and before != now:
        yield broken(path, f"logical type changed from {before} to {now}")
    elif before == now == "decimal":
        for name in ("precision", "scale"):
            if old.get(name, 0) != new.get(name, 0):
                yield broken(path, f"{name} changed from {old.get(name, 0)} to {new.get(name, 0)}")
