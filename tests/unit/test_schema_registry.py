"""A folder of schemas and the events of a request."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]
from structlog.testing import capture_logs

from ingest.refusals import ElementError, SchemaViolated
from ingest.schemas.fromtopic import load_from_topic
from ingest.schemas.keywords import multiple_of
from ingest.schemas.registry import Schemas, apply
from keylane.errors import ConfigurationError
from keylane.event import Event

ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "items"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "items": {"type": "array", "items": {"$ref": "item.json"}, "uniqueItems": True},
        "more": {"anyOf": [{"type": "null"}, {"type": "object", "required": ["q"]}]},
    },
    "additionalProperties": False,
}
ITEM = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["price"],
    "properties": {
        "price": {"type": "number", "minimum": 0, "multipleOf": 0.01},
        "a/b~c": {"type": "integer"},
    },
}
AVRO = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}
AN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def descriptor_set(*messages: str, package: str = "shop") -> bytes:
    """Messages with one string field each."""
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="t.proto", package=package, syntax="proto3")
    for name in messages:
        field = file.message_type.add(name=name).field.add(name="a", number=1)
        field.type, field.label = field.TYPE_STRING, field.LABEL_OPTIONAL
    return bytes(files.SerializeToString())


def folder_of(folder: Path, files: Mapping[str, Any]) -> Path:
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(raw)
    return folder


def event(payload: bytes | Any, kind: str = "order", **more: Any) -> Event:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Event("id-1", "user-1", raw, type=kind, **more)


@pytest.fixture
def shop(tmp_path: Path) -> Schemas:
    return Schemas.load(folder_of(tmp_path, {"order.json": ORDER, "item.json": ITEM}))


def told(schemas: Schemas, *events: Event) -> list[tuple[int, str, str]]:
    return [(e.index, e.field, e.detail) for e in schemas.check(events)]


def test_each_wrong_place_of_each_event_is_named_in_words(shop: Schemas) -> None:
    bad = {
        "id": "x",
        "items": [{"price": 19.99}, {"price": -1}, {"a/b~c": 1.5}],
        "more": {},
        "extra": 1,
    }

    assert told(shop, event({"id": AN_ID, "items": []}), event(bad), event([])) == [
        (1, "Payload/id", "is not of format uuid"),
        (1, "Payload/items/1/price", "must be at least 0"),
        (1, "Payload/items/2/price", "is required"),
        (1, "Payload/items/2/a~1b~0c", "must be an integer, is a number"),
        (1, "Payload/more/q", "is required"),
        (1, "Payload/extra", "is not allowed"),
        (2, "Payload", "must be an object, is an array"),
    ]


def test_a_type_without_a_schema_passes(shop: Schemas) -> None:
    assert not shop.check(
        [event({"anything": 1}, "refund"), event(b"\xff", "x", content_type="a/b")]
    )
    assert not Schemas().check([event({"anything": 1})])
    assert Schemas().schema_name(event({})) is None


def test_of_many_errors_ten_an_event_and_a_hundred_a_request_are_told_but_every_event(
    shop: Schemas,
) -> None:
    bad = event({"id": AN_ID, "items": [{"price": -n} for n in range(1, 40)]})
    counts = [0] * 30
    for error in shop.check([bad] * 30):
        counts[error.index] += 1

    assert counts == [10] * 10 + [1] * 20


def test_numbers_are_exact_and_never_cost(shop: Schemas) -> None:
    def priced(digits: str) -> list[tuple[int, str, str]]:
        body = f'{{"id":"{AN_ID}","items":[{{"price":{digits},"a/b~c":1.0}}]}}'
        return told(shop, event(body.encode()))

    started = time.process_time()
    for fine in ("19.99", "0.07", "1e3", "1e999999999", "1" * 5_000):
        assert not priced(fine)
    assert priced("19.999") == [(0, "Payload/items/0/price", "must be a multiple of 0.01")]
    assert priced("1e-999999999")[0][2] == "must be a multiple of 0.01"
    assert "out of range" in priced("1e99999999999999999999")[0][2]
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("value", "divisor", "is_multiple"),
    [
        ("0", "7", True),
        ("-21", "7", True),
        ("22", "7", False),
        ("1e40", "3", False),
        ("9e40", "3", True),
        ("0.3", "0.1", True),
        ("0.35", "0.1", False),
        ("2.50", "0.5", True),
    ],
)
def test_a_multiple_is_found_without_rounding(value: str, divisor: str, is_multiple: bool) -> None:
    assert multiple_of(Decimal(value), Decimal(divisor)) is is_multiple


def test_what_is_too_deep_is_a_violation_and_no_crash(tmp_path: Path) -> None:
    tree = {"anyOf": [{"allOf": [{"$ref": "#/$defs/array"}]}, {"type": "null"}]}
    defined = {"array": {"type": "array", "items": {"$ref": "#"}}}
    schemas = Schemas.load(folder_of(tmp_path, {"tree.json": {**tree, "$defs": defined}}))

    for payload in (b"[" * 60 + b"]" * 60, b"[%s]" % b",".join([b"[[]]"] * 500)):
        assert not schemas.check([event(payload, "tree")])
    for payload in (b"[" * 100_000, b"[" * 900 + b"]" * 900, b'{"a":' * 70 + b"1" + b"}" * 70):
        [(_, field, detail)] = told(schemas, event(payload, "tree"))
        assert (field, detail) == ("Payload", "is nested too deeply to be checked")


def test_unique_items_take_linear_time(tmp_path: Path) -> None:
    schemas = Schemas.load(folder_of(tmp_path, {"t.json": {"uniqueItems": True}}))
    objects = [{"n": n} for n in range(20_000)]
    started = time.process_time()

    assert not schemas.check([event([*objects, 1, True, "1", [1], None], "t")])
    assert told(schemas, event([*objects, {"n": 7.0}], "t"))[0][2] == "holds an item twice"
    assert time.process_time() - started < 5


def test_formats_are_checked(tmp_path: Path) -> None:
    cases = {
        "date-time": ("2026-01-31T12:00:00Z", "2026-02-30T12:00:00Z"),
        "date": ("2026-01-31", "20260131"),
        "time": ("12:00:00Z", "12:00"),
        "duration": ("P1DT2H", "P"),
        "email": ("a@example.org", "a"),
        "hostname": ("example.org", "-a.org"),
        "ipv4": ("192.0.2.1", "192.0.2.256"),
        "ipv6": ("2001:db8::1", "fe80::1%eth0"),
        "json-pointer": ("/a/~0", "a"),
        "regex": ("^a", "("),
        "uri": ("https://example.org/a?b", "example"),
        "uri-reference": ("/a", "a b"),
        "uuid": (AN_ID, AN_ID[:-1]),
    }
    schemas = Schemas.load(
        folder_of(tmp_path, {f"{name}.json": {"format": name} for name in cases})
    )

    for name, (good, bad) in cases.items():
        assert not schemas.check([event(good, name), event(7, name)])
        assert told(schemas, event(bad, name))[0][2] == f"is not of format {name}"


def test_everything_that_is_wrong_in_a_folder_is_named_at_once(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        {
            "a.json": {"type": "strin"},
            "b.json": b"{",
            "c.json": {"$schema": "http://json-schema.org/draft-07/schema#"},
            "d.avsc": {"type": "record"},
            "e.desc": b"\xff\xff",
            "f.jsn": {},
            "g%FF.json": {},
            "h.json": {},
            "%68.json": {},
            "several.desc": descriptor_set("A", "B"),
            "README.md": b"fine",
            ".hidden": b"fine",
        },
    )
    with pytest.raises(ConfigurationError) as caught:
        Schemas.load(tmp_path)

    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.split(":")[0] for line in lines] == [
        "a.json",
        "b.json",
        "c.json",
        "d.avsc",
        "e.desc",
        "f.jsn",
        "g%FF.json",
        "h.json",
        "several.desc",
    ]
    assert "shop.A, shop.B" in lines[-1]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "other.json"}, "$ref other.json leads to no schema"),
        ({"items": {"$ref": "#/$defs/x"}}, "$ref #/$defs/x leads to no schema"),
        ({"$ref": "https://example.org/a.json"}, "leads to no schema in this folder"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"pattern": "("}, "is not a 'regex'"),
        (7, "is not of type"),
    ],
)
def test_a_reference_that_leads_nowhere_is_wrong(tmp_path: Path, schema: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=r"t\.json") as caught:
        Schemas.load(folder_of(tmp_path, {"t.json": schema}))
    assert why in str(caught.value)


def test_files_refer_to_each_other_by_name_and_by_id(tmp_path: Path) -> None:
    schemas = Schemas.load(
        folder_of(
            tmp_path,
            {
                "one.json": {"$id": "https://example.org/s/one", "$ref": "two.json"},
                "two.json": {"$id": "https://example.org/s/two.json", "$ref": "name.json#/$defs/n"},
                "three.json": {"$ref": "https://example.org/s/two.json"},
                "name.json": {"$defs": {"n": {"type": "string"}}},
            },
        )
    )

    for kind in ("one", "two", "three"):
        assert not schemas.check([event("x", kind)])
        assert told(schemas, event(1, kind))[0][2] == "must be a string, is a number"


def test_two_files_can_not_have_one_id(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"b\.json: has the \$id of a\.json"):
        Schemas.load(folder_of(tmp_path, {"a.json": {"$id": "x:y"}, "b.json": {"$id": "x:y"}}))


def test_a_folder_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        Schemas.load(tmp_path / "nowhere")


def test_a_type_that_can_not_be_a_file_s_name_is_percent_encoded(tmp_path: Path) -> None:
    schemas = Schemas.load(folder_of(tmp_path, {"shop%2Forder.v1.json": {"type": "string"}}))

    assert schemas.check([event(1, "shop/order.v1")])
    assert schemas.schema_name(event("x", "shop/order.v1")) == "shop%2Forder.v1.json"


def test_a_meaning_that_depends_on_the_way_is_kept(tmp_path: Path) -> None:
    base = {
        "$id": "list",
        "type": "array",
        "items": {"$dynamicRef": "#item"},
        "$defs": {"i": {"$dynamicAnchor": "item"}},
    }
    numbers = {
        "$id": "n",
        "$ref": "list",
        "$defs": {"i": {"$dynamicAnchor": "item", "type": "null"}},
    }
    schemas = Schemas.load(folder_of(tmp_path, {"list.json": base, "nulls.json": numbers}))

    assert not schemas.check([event([1], "list"), event([None], "nulls")])
    assert schemas.check([event([1], "nulls")])


@pytest.fixture
def mixed(tmp_path: Path) -> Schemas:
    return Schemas.load(
        folder_of(
            tmp_path,
            {
                "a.avsc": AVRO,
                "p.desc": descriptor_set("P"),
                "two.json": {"type": "object"},
                "two.avsc": AVRO,
                "lax.json": True,
            },
        )
    )


def test_the_schema_goes_by_type_and_content_type(mixed: Schemas) -> None:
    good = [
        event(b"\x02x", "a", content_type="avro/binary"),
        event(b"\x02x", "two", content_type="application/avro; v=1"),
        event(b"\x0a\x01x", "p", content_type="application/x-protobuf"),
        event({}, "two", content_type="application/vnd.x+json"),
    ]

    assert not mixed.check(good)
    assert [mixed.schema_name(e) for e in good] == ["a.avsc", "two.avsc", "p.desc", "two.json"]


def test_a_payload_of_another_form_than_the_schema_is_wrong(mixed: Schemas) -> None:
    bad = [
        event({}, "a"),
        event(b"\x02x", "p", content_type="avro/binary"),
        event(b"x", "two", content_type="text/plain"),
    ]

    assert told(mixed, *bad) == [
        (0, "Payload", "has content type application/json, its schema is for Avro"),
        (1, "Payload", "has content type avro/binary, its schema is for Protobuf"),
        (2, "Payload", "has content type text/plain, its schema is for Avro or JSON"),
    ]
    assert [mixed.schema_name(e) for e in bad] == [None, None, None]


def test_dataschema_names_a_schema_but_is_no_way_around_the_type_s_own(mixed: Schemas) -> None:
    def named(kind: str, schema: str) -> Event:
        return event(b"\xff", kind, content_type="avro/binary", extensions={"dataschema": schema})

    assert told(mixed, named("free", "a.avsc"))
    assert told(mixed, named("a", "lax.json"))[0][2] == "ends within a number"
    assert not told(mixed, named("free", "https://example.org/unknown"))


def test_enforcing_raises_and_warning_counts(shop: Schemas) -> None:
    events = [event({"id": AN_ID, "items": []}), event({}), event([])]

    with capture_logs() as logs:
        assert apply("off", shop, events) == 0
        assert apply("warn", shop, events) == 2
        assert apply("warn", shop, events) == 2
        assert apply("warn", shop, events[:1]) == 0
    [line] = logs
    assert line["event"] == "schema.violated"
    assert (line["events"], line["field"]) == (2, "Payload/id")

    assert apply("enforce", shop, events[:1]) == 0
    with pytest.raises(SchemaViolated) as caught:
        apply("enforce", shop, events)
    assert caught.value.errors[0] == ElementError(1, "Payload/id", "is required")
    assert caught.value.errors[-1].index == 2


def topic_schema(kind: str, data: str) -> Any:
    asked: list[str] = []

    async def get(path: str) -> dict[str, Any] | None:
        asked.append(path)
        return {"version": 0, "type": kind, "data": data} if kind else None

    get.asked = asked  # type: ignore[attr-defined]
    return get


PULSAR_RECORD = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "n", "type": "int"},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A"]}},
        {"name": "lines", "type": {"type": "array", "items": "Order"}},
    ],
}


async def test_a_topic_s_json_schema_is_a_record_that_avro_defines() -> None:
    get = topic_schema("JSON", json.dumps(PULSAR_RECORD))
    schemas = await load_from_topic(get, "orders")

    assert get.asked == ["schemas/public/default/orders/schema"]
    assert schemas
    line = {"id": "x", "n": 1, "kind": "A", "lines": []}
    assert not schemas.check([event({**line, "lines": [line]}), event({**line, "extra": 1})])
    bad = {"note": 1, "n": 2**31, "kind": "B", "lines": [{**line, "n": True}]}
    assert told(schemas, event(bad)) == [
        (0, "Payload/id", "is required"),
        (0, "Payload/note", "must be null or string, is a number"),
        (0, "Payload/n", "must be int, is a number"),
        (0, "Payload/kind", "must be one of A"),
        (0, "Payload/lines/0/n", "must be int, is a boolean"),
    ]
    assert schemas.schema_name(event(line)) == "topic orders"


async def test_a_topic_s_avro_and_protobuf_schemas_ask_for_such_payloads() -> None:
    avro = await load_from_topic(topic_schema("AVRO", json.dumps(AVRO)), "t/n/orders")
    described = {
        "fileDescriptorSet": base64.b64encode(descriptor_set("A", "B")).decode(),
        "rootMessageTypeName": "shop.B",
    }
    protobuf = await load_from_topic(
        topic_schema("PROTOBUF_NATIVE", json.dumps(described)), "orders"
    )

    assert avro
    assert protobuf
    assert not avro.check([event(b"\x02x", content_type="avro/binary")])
    assert avro.check([event({"a": "x"})])
    assert not protobuf.check([event(b"\x0a\x01x", content_type="application/protobuf")])


@pytest.mark.parametrize("kind", ["", "NONE", "STRING", "BYTES", "INT32"])
async def test_a_topic_without_a_definition_asks_for_nothing(kind: str) -> None:
    assert await load_from_topic(topic_schema(kind, ""), "orders") is None


async def test_a_topic_s_definition_that_can_not_be_read_is_told() -> None:
    with pytest.raises(ConfigurationError, match="topic orders"):
        await load_from_topic(topic_schema("AVRO", "{"), "orders")


async def test_an_event_has_to_fit_both_folder_and_topic(shop: Schemas) -> None:
    definition = {**AVRO, "fields": [{"name": "id", "type": "string"}]}
    both = shop.along_with(await load_from_topic(topic_schema("JSON", json.dumps(definition)), "t"))

    assert not both.check([event({"id": AN_ID, "items": []}), event({"id": "x"}, "refund")])
    assert told(both, event({"id": 1, "items": 2})) == [
        (0, "Payload/id", "must be a string, is a number"),
        (0, "Payload/items", "must be an array, is a number"),
        (0, "Payload/id", "must be string, is a number"),
    ]
    assert told(both, event({}, "refund")) == [(0, "Payload/id", "is required")]
