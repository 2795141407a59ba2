"""Whether what fits one version of a schema fits another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ingest.schemas.violations import Language, NotASchema, Path, PayloadSchema, cut, pointer


class Break(NamedTuple):
    """One thing that fits the one version and not, or perhaps not, the other."""

    #: Where in a payload; `*` is any item, or any name that is not told apart.
    path: str
    why: str
    #: Whether there is such a payload for sure; else it can't be told.
    is_certain: bool = True


class Verdict(StrEnum):
    """Which of two versions takes what was written with the other."""

    FULL = "full"
    BACKWARD = "backward"
    FORWARD = "forward"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Report:
    """What stands against readers of the new version, and against those of the old one."""

    language: Language
    backward: Sequence[Break]
    forward: Sequence[Break]

    @property
    def verdict(self) -> Verdict:
        if self.backward:
            return Verdict.NONE if self.forward else Verdict.FORWARD
        return Verdict.BACKWARD if self.forward else Verdict.FULL


def broken(path: Path, why: str, *, is_certain: bool = True) -> Break:
    return Break(pointer(path) or "/", cut(why), is_certain)


def compare(old: PayloadSchema, new: PayloadSchema) -> Report:
    """Compare two versions, both ways; raises `NotASchema` if they are of two languages."""
    if old.language is not new.language:
        raise NotASchema(f"{new.name} is {new.language}, {old.name} is {old.language}")
    return Report(old.language, _once(_breaks(old, new)), _once(_breaks(new, old)))


def _breaks(writer: PayloadSchema, reader: PayloadSchema) -> Iterable[Break]:
    # Of each language only what is needed is imported.
    if writer.language is Language.AVRO:
        from ingest.schemas.avroresolution import breaks as avro_breaks

        return avro_breaks(writer, reader)
    if writer.language is Language.PROTOBUF:
        from ingest.schemas.protobufwire import breaks as protobuf_breaks

        return protobuf_breaks(writer, reader)
    from ingest.schemas.containment import breaks as json_breaks

    return json_breaks(writer, reader)


def _once(found: Iterable[Break]) -> tuple[Break, ...]:
    return tuple(dict.fromkeys(found))
