"""The library's validator with our keywords, and one that prepares each part only once.

The library prepares a part anew for every value, which takes most of its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError, validators
from referencing.jsonschema import DRAFT202012

from ingest.schemas.jsontext import is_whole
from ingest.schemas.keywords import KEYWORDS

#: The library has no types for what is made here.
_extend: Final[Any] = validators.extend
_TYPES: Final = Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _checker, value: is_whole(value)
)


def validator_class(*, remembers: bool) -> Any:
    """Make a class of validators, to be used for schemas that stay as they are.

    To remember parts is wrong where `$dynamicRef` makes their meaning depend on the way to them.
    """
    made = _extend(Draft202012Validator, dict(KEYWORDS), type_checker=_TYPES)
    if not remembers:
        return made
    parts = _Parts(made)
    made = _extend(made, {"$ref": parts.follow}, type_checker=_TYPES)

    def descend(validator: Any, *what: Any, **where: Any) -> Iterator[ValidationError]:
        return parts.descend(validator, *what, **where)

    made.descend = descend
    parts.keywords = made.VALIDATORS
    return made


class _Parts:
    """Parts of schemas by their identity, each with the checks of its keywords."""

    def __init__(self, made: Any) -> None:
        self.keywords = made.VALIDATORS
        self._parts: dict[int, tuple[Any, list[tuple[Any, str, Any]]]] = {}
        self._targets: dict[int, Any] = {}

    def descend(
        self,
        validator: Any,
        instance: Any,
        schema: Any,
        path: Any = None,
        schema_path: Any = None,
        resolver: Any = None,
    ) -> Iterator[ValidationError]:
        if schema is True:
            return
        if schema is False:
            nothing: Any = None
            yield _located(ValidationError("", validator=nothing), path, schema_path)
            return
        inner, checks = self._part(validator, schema, resolver)
        for check, keyword, value in checks:
            for error in check(inner, value, instance, schema) or ():
                error._set(  # noqa: SLF001  as the library's own does
                    validator=keyword,
                    validator_value=value,
                    instance=instance,
                    schema=schema,
                    type_checker=_TYPES,
                )
                if keyword not in {"if", "$ref"}:
                    error.schema_path.appendleft(keyword)
                yield _located(error, path, schema_path)

    def follow(
        self, validator: Any, reference: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        target = self._targets.get(id(schema))
        if target is None:
            target = validator._resolver.lookup(reference)  # noqa: SLF001  there is no other way
            self._targets[id(schema)] = target
        yield from validator.descend(instance, target.contents, resolver=target.resolver)

    def _part(self, validator: Any, schema: Any, resolver: Any) -> Any:
        part = self._parts.get(id(schema))
        if part is None:
            if resolver is None:
                inner = DRAFT202012.create_resource(schema)
                resolver = validator._resolver.in_subresource(inner)  # noqa: SLF001  as above
            part = self._parts[id(schema)] = (
                validator.evolve(schema=schema, _resolver=resolver),
                [(self.keywords[k], k, v) for k, v in schema.items() if k in self.keywords],
            )
        return part


def _located(error: ValidationError, path: Any, schema_path: Any) -> ValidationError:
    if path is not None:
        error.path.appendleft(path)
    if schema_path is not None:
        error.schema_path.appendleft(schema_path)
    return error
