"""What a schema says about a payload, the same in every language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Final, NamedTuple, Protocol, TypeAlias

from keylane.errors import ContractError

#: A text of others is told no longer than this.
TOLD_CHARACTERS: Final = 200
TOO_DEEP: Final = "is nested too deeply to be checked"

Path: TypeAlias = tuple[str | int, ...]


class Language(StrEnum):
    """What a schema describes: payloads of this form."""

    JSON = "JSON"
    AVRO = "Avro"
    PROTOBUF = "Protobuf"


class Violation(NamedTuple):
    """One thing that is wrong with a payload; `path` leads to it."""

    path: Path
    detail: str


class NotASchema(ContractError):  # noqa: N818  named by the fact
    """This file holds no schema that can be used."""


class PayloadSchema(Protocol):
    """One schema, ready to check payloads."""

    @property
    def name(self) -> str:
        """What it is called in messages: its file's name."""

    @property
    def language(self) -> Language: ...

    def violations(self, payload: bytes) -> Iterator[Violation]:
        """Say what is wrong, one thing after the other; may raise `RecursionError`."""

    def violations_in_json(self, payload: bytes) -> Iterator[Violation]:
        """As `violations`, of a payload that was written down as JSON."""


def violations_of(
    check: Callable[[bytes], Iterator[Violation]], payload: bytes, most: int
) -> list[Violation]:
    """Say what is wrong with a payload, up to `most` things; never raises for what it holds."""
    try:
        return list(islice(check(payload), most))
    except RecursionError:
        return [Violation((), TOO_DEEP)]
    except BaseException as error:
        # What the JSON Schema library is built on panics where the stack ends within it; this is
        # no Exception and would end the process.
        if type(error).__name__ != "PanicException":
            raise
        return [Violation((), TOO_DEEP)]


def pointer(path: Path) -> str:
    """A JSON Pointer (RFC 6901), such as `/items/0/price`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def cut(text: str) -> str:
    """A text of others as an answer can carry it: short, without lone surrogates."""
    short = text if len(text) <= TOLD_CHARACTERS else text[: TOLD_CHARACTERS - 3] + "..."
    return short.encode("utf-8", "backslashreplace").decode()


_FORMS: Final = {
    **dict.fromkeys(("avro/binary", "application/avro"), Language.AVRO),
    **dict.fromkeys(
        ("application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"),
        Language.PROTOBUF,
    ),
}


def language_of(content_type: str) -> Language | None:
    """The language of schemas for payloads of that content type; None if there is none."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.endswith(("/json", "+json")):
        return Language.JSON
    return _FORMS.get(media_type)
