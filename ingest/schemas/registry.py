"""All schemas there are, and what they say about the events of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import structlog

from ingest.explain import shown
from ingest.refusals import ElementError, SchemaViolated
from ingest.schemas.files import read_folder, type_of
from ingest.schemas.violations import (
    Language,
    PayloadSchema,
    Violation,
    language_of,
    pointer,
    violations_of,
)
from ingest.throttle import Throttle
from keylane.event import Event

log = structlog.get_logger()

Mode: TypeAlias = Literal["off", "warn", "enforce"]

#: Of one event no more is told than this.
MAX_PROBLEMS: Final = 10
#: Beyond so many of a request only one of each event.
MAX_REQUEST_PROBLEMS: Final = 100
#: Seconds between two log lines.
QUIET_S: Final = 1.0
#: The CloudEvents attribute that may name a schema.
_NAMED_BY: Final = "dataschema"
_FIELD: Final = "Payload"


class Schemas:
    """Schemas by the names of their files, and those that every event has to fit."""

    def __init__(
        self,
        by_name: Mapping[str, PayloadSchema] | None = None,
        for_all: Sequence[PayloadSchema] = (),
    ) -> None:
        self._by_name = dict(by_name or {})
        self._for_all = tuple(for_all)
        self._by_type: dict[str, dict[Language, PayloadSchema]] = {}
        for name, schema in self._by_name.items():
            self._by_type.setdefault(type_of(name), {})[schema.language] = schema
        self.throttle = Throttle(QUIET_S)

    @classmethod
    def load(cls, folder: Path) -> Schemas:
        """Read a folder; raises `ConfigurationError` that names every wrong file."""
        return cls(read_folder(folder))

    def along_with(self, other: Schemas | None) -> Schemas:
        """Both: an event has to fit what either asks for."""
        if other is None:
            return self
        by_name = {**self._by_name, **other._by_name}  # noqa: SLF001  of the same class
        return Schemas(by_name, (*self._for_all, *other._for_all))  # noqa: SLF001

    def __bool__(self) -> bool:
        return bool(self._by_name or self._for_all)

    def check(self, events: Sequence[Event]) -> list[ElementError]:
        """Say what is wrong with each event; nothing about those whose type has no schema."""
        errors: list[ElementError] = []
        if not self:
            return errors
        for index, event in enumerate(events):
            room = max(1, min(MAX_PROBLEMS, MAX_REQUEST_PROBLEMS - len(errors)))
            found = [v for asked in self._asked(event) for v in _violations(asked, event, room)]
            errors += [
                ElementError(index, shown(_FIELD + pointer(path)), detail)
                for path, detail in found[:room]
            ]
        return errors

    def schema_name(self, event: Event) -> str | None:
        """The name of the schema that the event is checked against, if there is one.

        It says nothing about whether the event fits.
        """
        language = language_of(event.content_type)
        if language is None:
            return None
        return next(
            (found[language].name for found in self._asked(event) if language in found), None
        )

    def _asked(self, event: Event) -> Iterable[Mapping[Language, PayloadSchema]]:
        """What an event has to fit, each by language; it has to be of one of those languages."""
        # A type's own schema goes first: a sender must not choose an easier one.
        own: Mapping[Language, PayloadSchema] | None = self._by_type.get(event.type)
        if own is None:
            named = self._by_name.get(event.extensions.get(_NAMED_BY, ""))
            own = {named.language: named} if named else {}
        every = [{schema.language: schema} for schema in self._for_all]
        return [asked for asked in (own, *every) if asked]


def apply(mode: Mode, schemas: Schemas, events: Sequence[Event]) -> int:
    """Check the events as `mode` says; returns how many don't fit but are let through.

    Raises `SchemaViolated` in the mode `enforce`.
    """
    if mode == "off":
        return 0
    errors = schemas.check(events)
    if not errors:
        return 0
    if mode == "enforce":
        raise SchemaViolated(errors)
    bad = {error.index for error in errors}
    suppressed = schemas.throttle.suppressed("violations")
    if suppressed is not None:
        first = errors[0]
        event = events[first.index]
        log.warning(
            "schema.violated",
            events=len(bad),
            id=event.id,
            type=event.type,
            field=first.field,
            detail=first.detail,
            suppressed=suppressed,
        )
    return len(bad)


def _violations(
    asked: Mapping[Language, PayloadSchema], event: Event, room: int
) -> list[Violation]:
    language = language_of(event.content_type)
    schema = None if language is None else asked.get(language)
    if schema is None:
        languages = " or ".join(sorted(str(found) for found in asked))
        content_type = shown(event.content_type)
        return [Violation((), f"has content type {content_type}, its schema is for {languages}")]
    return violations_of(schema.violations, event.payload, room)
