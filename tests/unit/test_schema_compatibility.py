"""What `keylane schema check` says of two versions, tried with documents."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ingest.schemas.avro import AvroSchema, Definition
from ingest.schemas.compatibility import Break, Verdict, compare
from ingest.schemas.jsontext import read_json, written
from ingest.schemas.violations import NotASchema
from tests.unit.schema_grammar import DOCUMENTS, SCHEMAS, TIGHTENED, fitting, loosened, made

ORDER: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "maxLength": 10},
        "qty": {"type": "integer", "minimum": 0, "maximum": 99},
        "state": {"enum": ["new", "paid"]},
        "tags": {"type": "array", "items": {"type": ["string", "null"]}, "maxItems": 5},
        "note": {"type": "string"},
    },
    "additionalProperties": False,
}


def backward(old: Any, new: Any) -> list[Break]:
    return list(compare(made(old), made(new)).backward)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The order with one place replaced; None takes it away."""
    copy = json.loads(json.dumps(ORDER))
    *way, last = path.split("/")
    place = copy
    for step in way:
        place = place[step]
    place[last] = value
    if value is None:
        del place[last]
    return dict(copy)


@pytest.mark.parametrize(
    ("path", "value", "where", "why"),
    [
        ("required", ["id", "qty"], "/qty", "required property added"),
        ("properties/id", {"enum": ["x"]}, "/id", 'enum ["x"] added'),
        ("properties/state", {"enum": ["new"]}, "/state", 'enum value removed: "paid"'),
        ("properties/note", None, "/note", "property removed, and others are not allowed"),
        ("properties/qty/minimum", 1, "/qty", "minimum changed from 0 to 1"),
        ("properties/qty/maximum", 98, "/qty", "maximum changed from 99 to 98"),
        ("properties/qty/exclusiveMaximum", 99, "/qty", "exclusiveMaximum 99 added"),
        ("properties/qty/multipleOf", 2, "/qty", "multipleOf 2 added"),
        ("properties/id/maxLength", 9, "/id", "maxLength changed from 10 to 9"),
        ("properties/id/minLength", 1, "/id", "minLength 1 added"),
        ("properties/id/pattern", "^a", "/id", 'pattern "^a" added'),
        ("properties/id/format", "uuid", "/id", 'format "uuid" added'),
        ("properties/tags/items", {"type": "string"}, "/tags/*", "type narrowed: null"),
        ("properties/tags/maxItems", 4, "/tags", "maxItems changed from 5 to 4"),
        ("properties/tags/uniqueItems", True, "/tags", "uniqueItems added"),
        ("properties/tags/contains", {"type": "string"}, "/tags", "contains added"),
        ("minProperties", 2, "/", "minProperties changed from 1 to 2"),
        ("propertyNames", {"maxLength": 4}, "/state", "this name is no longer allowed"),
        ("dependentRequired", {"qty": ["note"]}, "/note", "required property added where qty is"),
    ],
)
def test_what_breaks_is_told_with_its_place_and_why(
    path: str, value: Any, where: str, why: str
) -> None:
    found = backward(ORDER, changed(path, value))

    assert [one.path for one in found] == [where]
    assert found[0].why.startswith(why)
    assert found[0].is_certain
    assert not backward(changed(path, value), ORDER)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"type": "integer"}, {"type": "number", "multipleOf": 0.5}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "integer", "minimum": 1}),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": ["null", "string"]}),
        ({"type": ["null", "string"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"allOf": [{"minimum": 2}, {"maximum": 5}]}, {"minimum": 1, "maximum": 6}),
        ({"$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"}, {"type": "string"}),
        ({"const": 3}, {"type": "integer", "not": {"const": 4}}),
        ({"not": {"type": "null"}}, {"not": {"type": "null"}}),
        ({"type": "array", "maxItems": 0}, {"type": "array", "items": {"type": "null"}}),
        ({"type": "boolean"}, {"enum": [True, False]}),
        (False, {"type": "null"}),
        (
            {"type": "array", "prefixItems": [{}], "items": False},
            {"type": "array", "maxItems": 1},
        ),
    ],
)
def test_what_only_is_written_in_another_way_is_no_break(old: Any, new: Any) -> None:
    assert not backward(old, new)


def test_a_pattern_that_is_gone_leaves_its_names_to_the_others() -> None:
    old = {"type": "object", "patternProperties": {"^p": {}}, "additionalProperties": False}

    assert [one.path for one in backward(old, {**old, "patternProperties": {}})] == ["/*"]
    assert not backward({**old, "patternProperties": {}}, old)


def test_a_definition_that_changed_behind_the_same_reference_is_found() -> None:
    def tree(**more: Any) -> dict[str, Any]:
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, **more}
        return {"$defs": {"node": node}, "not": {"$ref": "#/$defs/node"}}

    assert not backward(tree(), tree())
    assert not backward(tree()["$defs"]["node"] | tree(), tree())
    assert backward(tree(), tree(minProperties=1))


def test_a_schema_that_holds_itself_is_compared() -> None:
    def tree(least: int) -> dict[str, Any]:
        node = {"properties": {"n": {"minimum": least}, "next": {"$ref": "#/$defs/node"}}}
        return {"$defs": {"node": {"type": "object", **node}}, "$ref": "#/$defs/node"}

    assert not backward(tree(1), tree(0))
    assert {one.path for one in backward(tree(0), tree(1))} == {"/n", "/next/n"}


@pytest.mark.parametrize(
    "new",
    [
        {"not": {"type": "null"}},
        {"if": {"type": "null"}, "then": False},
        {"oneOf": [{"minimum": 1}, {"type": "number"}]},
        {"type": "object", "unevaluatedProperties": False},
        {"dependentSchemas": {"a": {"minProperties": 2}}},
    ],
)
def test_what_can_not_be_decided_is_a_break_that_is_not_certain(new: Any) -> None:
    found = backward({"type": ["object", "number"], "minProperties": 1}, new)

    assert any(not one.is_certain for one in found)


def test_kinds_of_an_object_are_told_apart_by_a_constant() -> None:
    def events(kind_of_value: str) -> dict[str, Any]:
        return {
            "oneOf": [
                {
                    "type": "object",
                    "required": ["k"],
                    "properties": {"k": {"const": "a"}, "v": {"type": kind_of_value}},
                },
                {"type": "object", "required": ["k"], "properties": {"k": {"const": "b"}}},
            ]
        }

    report = compare(made(events("integer")), made(events("number")))

    assert report.verdict is Verdict.BACKWARD
    assert [one.path for one in report.forward] == ["/v"]


def test_versions_in_two_languages_are_not_compared() -> None:
    avro = AvroSchema("t.avsc", Definition(b'"string"'))

    with pytest.raises(NotASchema, match=r"t\.avsc is Avro, t\.json is JSON"):
        compare(made(True), avro)


def accepts(schema: Any, document: Any) -> bool:
    """Ask the library itself, with exact numbers so that 2.0 is the integer it is."""
    return bool(Draft202012Validator(schema).is_valid(document))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), SCHEMAS, SCHEMAS)
def test_nothing_is_called_compatible_that_a_document_disproves(
    data: st.DataObject, old: Any, other: Any
) -> None:
    new = data.draw(st.just(other) | loosened(old))
    if data.draw(st.booleans()):
        old, new = new, old
    found = backward(old, new)
    for _ in range(6):
        document = data.draw(fitting(old) | fitting(new) | DOCUMENTS)
        if accepts(old, document) and not accepts(new, document):
            assert found, (old, new, document)


# The same examples every time: of millions there may be one that can't be decided.
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data(), SCHEMAS)
def test_a_loosened_schema_is_never_called_breaking(data: st.DataObject, old: Any) -> None:
    new = data.draw(loosened(old))

    assert not backward(old, new), (old, new)


@settings(max_examples=40, deadline=None)
@given(TIGHTENED)
def test_a_tightened_schema_is_always_called_breaking(made_so: tuple[Any, Any, Any]) -> None:
    loose, tight, document = made_so
    assert accepts(loose, document)
    assert not accepts(tight, document)

    assert any(one.is_certain for one in backward(loose, tight))
    assert not backward(tight, loose)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), SCHEMAS)
def test_our_validator_and_the_library_s_agree(data: st.DataObject, schema: Any) -> None:
    document = read_json(written(data.draw(fitting(schema) | DOCUMENTS)).encode())
    plain = json.loads(written(document))
    assume(not (isinstance(document, Decimal) and "multipleOf" in str(schema)))

    fits = not list(made(schema).violations(written(document).encode()))
    assert fits == accepts(schema, plain), (schema, document)


_AVRO = st.recursive(
    st.sampled_from(["int", "long", "float", "double", "string", "bytes", "boolean", "null"]),
    lambda inner: st.one_of(
        inner.map(lambda items: {"type": "array", "items": items}),
        inner.map(lambda values: {"type": "map", "values": values}),
        inner.filter(lambda s: not isinstance(s, list) and s != "null").map(lambda s: ["null", s]),
    ),
    max_leaves=3,
)


def record(fields: list[tuple[str, Any, bool]]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": name, "type": ["null", kind], "default": None}
            if has_default and not isinstance(kind, list) and kind != "null"
            else {"name": name, "type": kind}
            for name, kind, has_default in fields
        ],
    }


_RECORDS = st.lists(
    st.tuples(st.sampled_from("abc"), _AVRO, st.booleans()), max_size=3, unique_by=lambda f: f[0]
).map(record)
_VALUES: dict[str, Any] = {
    "int": 1,
    "long": 2,
    "float": 0.5,
    "double": 0.25,
    "string": "x",
    "bytes": b"y",
    "boolean": True,
    "null": None,
}


def value_of(schema: Any, pick: int) -> Any:
    if isinstance(schema, list):
        return value_of(schema[pick % len(schema)], pick)
    if isinstance(schema, str):
        return _VALUES[schema]
    if schema["type"] == "array":
        return [value_of(schema["items"], pick)]
    if schema["type"] == "map":
        return {"k": value_of(schema["values"], pick)}
    return {f["name"]: value_of(f["type"], pick) for f in schema["fields"]}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(_RECORDS, _RECORDS, st.booleans())
def test_avro_called_compatible_is_resolved_by_its_library(old: Any, new: Any, same: bool) -> None:
    if same:
        new = {**new, "fields": [*old["fields"], *(f for f in new["fields"] if "default" in f)]}
        names = [field["name"] for field in new["fields"]]
        assume(len(names) == len(set(names)))
    made_old, made_new = (
        AvroSchema("t.avsc", Definition(json.dumps(schema).encode())) for schema in (old, new)
    )
    breaks = compare(made_old, made_new).backward
    assert not (same and breaks)

    results = []
    for pick in (0, 1):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, old, value_of(old, pick))
        assert not list(made_old.violations(stream.getvalue()))
        stream.seek(0)
        try:
            fastavro.schemaless_reader(stream, old, new)
            results.append(True)
        except Exception:  # noqa: BLE001  of several kinds
            results.append(False)
    assert breaks or all(results)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("long", "int", "type long can't be read as int"),
        (["null", "int"], "int", "type null can't be read as int"),
        ("string", ["null", "int"], "type string is in no alternative of the union any more"),
        (
            {"type": "enum", "name": "E", "symbols": ["a", "b"]},
            {"type": "enum", "name": "E", "symbols": ["a"]},
            "enum symbol removed: b",
        ),
        (
            {"type": "fixed", "name": "F", "size": 4},
            {"type": "fixed", "name": "F", "size": 5},
            "size changed from 4 to 5",
        ),
        (record([]), record([("a", "int", False)]), "field without default added"),
        (
            {"type": "long", "logicalType": "timestamp-millis"},
            {"type": "long", "logicalType": "timestamp-micros"},
            "logical type changed from timestamp-millis to timestamp-micros",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1},
            "scale changed from 2 to 1",
        ),
        (record([]), {**record([]), "name": "S"}, "record renamed from R to S"),
    ],
)
def test_what_breaks_avro_is_told(old: Any, new: Any, why: str) -> None:
    report = compare(
        AvroSchema("o", Definition(json.dumps(old).encode())),
        AvroSchema("n", Definition(json.dumps(new).encode())),
    )

    assert [one.why for one in report.backward] == [why]
