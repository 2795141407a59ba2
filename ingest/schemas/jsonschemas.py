"""JSON Schema, draft 2020-12. A `$ref` leads to another file of the folder, never further."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from jsonschema import Draft202012Validator, SchemaError
from jsonschema_specifications import (  # type: ignore[import-untyped]
    REGISTRY as SPECIFICATIONS,
)
from referencing import Registry, Resource
from referencing.exceptions import NoSuchResource, Unresolvable
from referencing.jsonschema import DRAFT202012

from ingest.schemas.formats import FORMATS
from ingest.schemas.jsontext import read_json, written
from ingest.schemas.validator import validator_class
from ingest.schemas.violations import Language, NotASchema, Violation, cut, pointer
from ingest.schemas.words import in_words

SUFFIX: Final = ".json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_METASCHEMAS: Final = "https://json-schema.org/draft/"
_REFERENCES: Final = ("$ref", "$dynamicRef")


class JsonSchema:
    """One file, and those it refers to."""

    language: Final = Language.JSON

    def __init__(self, name: str, document: Any, registry: Registry[Any], kind: Any) -> None:
        self.name = name
        self.document = document
        self.resolver = registry.resolver_with_root(_resource(document))
        self._validator = kind(document, registry=registry, format_checker=FORMATS)

    def violations(self, payload: bytes) -> Iterator[Violation]:
        try:
            document = read_json(payload)
        except ValueError as error:
            yield Violation((), cut(f"is not JSON: {error}"))
            return
        for wrong in self._validator.iter_errors(document):
            yield from in_words(wrong)

    violations_in_json = violations

    def accepts(self, value: Any) -> bool:
        return bool(self._validator.is_valid(value))


def load_all(files: Mapping[str, bytes]) -> tuple[dict[str, JsonSchema], list[str]]:
    """Make schemas of files by their names; also tells what is wrong, as lines `NAME: WHY`."""
    documents: dict[str, Any] = {}
    problems: list[str] = []
    for name, content in files.items():
        try:
            documents[name] = parse(content)
        except NotASchema as error:
            problems.append(f"{name}: {error}")
    registry, clashes = _registry_of(documents)
    kind = validator_class(remembers=not any(map(_is_dynamic, documents.values())))
    schemas = {name: JsonSchema(name, found, registry, kind) for name, found in documents.items()}
    problems += clashes
    # What refers to a file that is wrong itself would be told as missing.
    if not problems:
        problems += [f"{name}: {why}" for name in schemas for why in _dangling(schemas[name])]
    return schemas, problems


def load_one(path: Path) -> JsonSchema:
    """Make a schema of one file, and of those beside it that it names; raises `NotASchema`."""

    def beside(uri: str) -> Resource[Any]:
        if "/" in uri or not uri.endswith(SUFFIX):
            raise NoSuchResource(uri)
        try:
            return _resource(parse((path.parent / uri).read_bytes()))
        except (OSError, NotASchema) as error:
            raise NoSuchResource(uri) from error

    document = parse(path.read_bytes())
    registry: Registry[Any] = Registry(retrieve=beside)  # type: ignore[call-arg]
    registry = SPECIFICATIONS.combine(registry).with_resource(path.name, _resource(document))
    # What it refers to is not known yet, so nothing can be remembered.
    schema = JsonSchema(path.name, document, registry, validator_class(remembers=False))
    for why in _dangling(schema):
        raise NotASchema(why)
    return schema


def parse(content: bytes) -> Any:
    """Read a schema; raises `NotASchema`. `$schema` is taken out of what comes back."""
    try:
        document = read_json(content)
        if isinstance(document, dict) and document.get("$schema", _DIALECT) != _DIALECT:
            raise NotASchema(f"is not of {_DIALECT}, the only $schema that is taken")
        Draft202012Validator.check_schema(document)
    except ValueError as error:
        raise NotASchema(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise NotASchema("is nested too deeply") from error
    except SchemaError as error:
        place = pointer(tuple(error.path)) or "/"
        raise NotASchema(cut(f"{place}: {error.message}")) from error
    # The library would go on with a plain validator at each `$schema` that it meets.
    for inner in _with_dialect(document):
        if inner.pop("$schema") != _DIALECT:
            raise NotASchema(f"holds a schema that is not of {_DIALECT}")
    return document


def _with_dialect(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "$schema" in schema:
            yield schema
        for inner in DRAFT202012.subresources_of(schema):
            yield from _with_dialect(inner)


def _is_dynamic(document: Any) -> bool:
    """Whether a part may mean different things on different ways; the metaschemas are like that."""
    text = written(document)
    return '"$dynamic' in text or _METASCHEMAS in text


def _resource(document: Any) -> Resource[Any]:
    return DRAFT202012.create_resource(document)


def _registry_of(documents: Mapping[str, Any]) -> tuple[Registry[Any], list[str]]:
    """Where each file is found: by its name, by its `$id`, and by its name beside other `$id`s."""
    found = dict(documents)
    named: dict[str, str] = {}
    problems = []
    for name, document in documents.items():
        own_id = document.get("$id") if isinstance(document, dict) else None
        if own_id is None:
            continue
        if (first := named.setdefault(own_id.rstrip("#"), name)) != name:
            problems.append(f"{name}: has the $id of {first}")
        found[own_id.rstrip("#")] = document
    for own_id in named:
        for name, document in documents.items():
            found.setdefault(urljoin(own_id, name), document)
    resources = [(uri, _resource(document)) for uri, document in found.items()]
    return SPECIFICATIONS.combine(Registry().with_resources(resources)), problems


def _dangling(schema: JsonSchema) -> Iterator[str]:
    """What can't be followed, from one file."""
    yield from _unresolved(_resource(schema.document), schema.resolver)
    try:
        schema.accepts(None)
    except RecursionError:
        yield "refers to itself without end"
    except Unresolvable:
        return  # in a file that it refers to, where it is told


def _unresolved(resource: Resource[Any], resolver: Any) -> Iterator[str]:
    contents = resource.contents
    for keyword in _REFERENCES if isinstance(contents, dict) else ():
        if keyword in contents:
            try:
                target = resolver.lookup(contents[keyword]).contents
            except Unresolvable:
                target = None
            if not isinstance(target, dict | bool):
                yield cut(f"{keyword} {contents[keyword]} leads to no schema in this folder")
    for inner in resource.subresources():
        yield from _unresolved(inner, resolver.in_subresource(inner))
