"""Avro and Protobuf payloads, those too that were made to do harm."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import fastavro
import pytest
from google.protobuf import descriptor_pb2  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.schemas.avro import AvroSchema, Definition
from ingest.schemas.compatibility import Break, compare
from ingest.schemas.files import load_file
from ingest.schemas.protobuf import ProtobufSchema, load
from ingest.schemas.violations import NotASchema, pointer, violations_of

ORDER = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "paid", "type": "boolean"},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
        {"name": "total", "type": ["null", "double"]},
        {"name": "weight", "type": "float"},
        {"name": "raw", "type": "bytes"},
        {"name": "n", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "tags", "type": {"type": "map", "values": "long"}},
        {"name": "lines", "type": {"type": "array", "items": "shop.Order"}},
    ],
}


def avro(schema: Any) -> AvroSchema:
    return AvroSchema("t.avsc", Definition(json.dumps(schema).encode()))


def found(schema: AvroSchema | ProtobufSchema, payload: bytes) -> list[str]:
    told = violations_of(schema.violations, payload, 10)
    return [f"{pointer(path)} {detail}".strip() for path, detail in told]


def orders(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "id": st.text(max_size=5),
            "kind": st.sampled_from("AB"),
            "paid": st.booleans(),
            "hash": st.binary(min_size=4, max_size=4),
            "total": st.none() | st.floats(allow_nan=False),
            "weight": st.floats(width=32, allow_nan=False),
            "raw": st.binary(max_size=70),
            "n": st.integers(-(2**31), 2**31 - 1),
            "at": st.integers(-(2**63), 2**63 - 1),
            "tags": st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=2),
            "lines": st.lists(inner, max_size=2),
        }
    )


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        orders(st.just({})).map(lambda order: {**order, "lines": []}), orders, max_leaves=3
    ),
    st.data(),
)
def test_what_the_library_writes_decodes_and_what_is_cut_or_longer_does_not(
    order: Any, data: st.DataObject
) -> None:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, ORDER, order)
    payload = stream.getvalue()
    schema = avro(ORDER)

    assert not found(schema, payload)
    assert found(schema, payload + b"\0")
    assert found(schema, payload[: data.draw(st.integers(0, len(payload) - 1))])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_told_good_or_bad_and_the_library_reads_the_good(payload: bytes) -> None:
    schema = {"type": "array", "items": ["null", "boolean", {"type": "map", "values": "int"}]}
    if not found(avro(schema), payload):
        stream = io.BytesIO(payload)
        fastavro.schemaless_reader(stream, schema, None)
        assert stream.tell() == len(payload)


@pytest.mark.parametrize(
    ("schema", "payload", "why"),
    [
        ("string", b"\x06ab", "needs 3 bytes, 2 are left"),
        ("string", b"\x01ab", "has a length of -1"),
        ("string", b"\x02\xff", "is not UTF-8"),
        ("boolean", b"\x05", "is no boolean"),
        ("int", b"\x80\x80\x80\x80\x80\x01", "is a number of more than 32 bits"),
        ("int", b"\xff\xff\xff\xff\x1f", "is a number of more than 32 bits"),
        ("long", b"\xff" * 11, "is a number of more than 64 bits"),
        ("long", b"\x80", "ends within a number"),
        ("double", b"1234567", "needs 8 bytes, 7 are left"),
        (["null", "int"], b"\x04", "is alternative 2 of 2"),
        (["null", "int"], b"\x01", "is alternative -1 of 2"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, b"\x01", "is symbol -1 of 1"),
        ({"type": "array", "items": "int"}, b"\x04\x02\x80", "/1 ends within a number"),
        (
            {"type": "array", "items": "int"},
            b"\x01\x04\x02\x00",
            "holds a block of another length than announced",
        ),
        ("null", b"x", "ends after 0 bytes, has 1"),
    ],
)
def test_what_is_wrong_with_avro_is_told(schema: Any, payload: bytes, why: str) -> None:
    assert found(avro(schema), payload) == [why]


def test_blocks_with_their_length_in_bytes_are_read() -> None:
    assert not found(avro({"type": "array", "items": "int"}), b"\x03\x04\x02\x04\x02\x06\x00")


def test_a_count_alone_costs_nothing() -> None:
    payload = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2**63 - 1 items
    nothing = {"type": "record", "name": "N", "fields": []}
    started = time.process_time()

    for items in ("null", nothing):
        assert not found(avro({"type": "array", "items": items}), payload + b"\0")
        assert found(avro({"type": "map", "values": items}), payload + b"\0")
    assert found(avro({"type": "array", "items": "int"}), payload + b"\0" * 5)
    assert time.process_time() - started < 1


def test_an_avro_value_that_is_nested_deeply_is_a_violation_and_no_crash() -> None:
    chain = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}

    assert not found(avro(chain), b"\x02" * 20 + b"\0")
    assert found(avro(chain), b"\x02" * 200_000 + b"\0") == ["is nested too deeply to be checked"]


@pytest.mark.parametrize(
    "content", [b"{", b'"strin"', b"{}", b'{"type":"record"}', b"7", b'{"type":"array"}']
)
def test_what_is_no_avro_definition_is_told(content: bytes) -> None:
    with pytest.raises(NotASchema):
        AvroSchema("t.avsc", Definition(content))


TYPES = descriptor_pb2.FieldDescriptorProto


def message(*fields: tuple[str, int, str], syntax: str = "proto3", **options: Any) -> bytes:
    """A set with one message; a type may begin with `repeated ` or `required `."""
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="t.proto", package="shop", syntax=syntax)
    made = file.message_type.add(name="Order")
    made.oneof_decl.extend(descriptor_pb2.OneofDescriptorProto(name=n) for n in options)
    for name, number, kind in fields:
        label, _, base = kind.rpartition(" ")
        field = made.field.add(name=name, number=number)
        field.label = getattr(TYPES, f"LABEL_{(label or 'optional').upper()}")
        if base == "Order":
            field.type, field.type_name = TYPES.TYPE_MESSAGE, ".shop.Order"
        elif base.startswith("enum:"):
            field.type, field.type_name = TYPES.TYPE_ENUM, ".shop.Order.E"
            listed = made.enum_type.add(name="E")
            for at, value in enumerate(base.removeprefix("enum:").split(",")):
                listed.value.add(name=value, number=at)
        else:
            field.type = getattr(TYPES, f"TYPE_{base.upper()}")
        for at, members in enumerate(options.values()):
            if name in members:
                field.oneof_index = at
    return bytes(files.SerializeToString())


def protobuf(*fields: tuple[str, int, str], **options: Any) -> ProtobufSchema:
    return load("t.desc", message(*fields, **options), "", None)


def test_protobuf_has_to_decode_completely() -> None:
    schema = protobuf(("id", 1, "string"), ("lines", 2, "repeated Order"))

    assert not found(schema, b"")
    assert not found(schema, b"\x0a\x01x\x12\x03\x0a\x01y")
    assert found(schema, b"\x0a\x05x") == ["can't be read as shop.Order"]
    assert found(schema, b"\x0a\x01\xff") == ["can't be read as shop.Order"]
    assert found(schema, b"\x18\x01") == ["has a field 3 that shop.Order lacks"]
    assert found(schema, b"\x12\x00\x12\x02\x18\x01") == [
        "/lines/1 has a field 3 that shop.Order lacks"
    ]
    assert found(schema, b"\x12\x7f" * 1_000)


def test_a_required_field_of_protobuf_2_is_asked_for() -> None:
    schema = protobuf(("id", 1, "required string"), syntax="proto2")

    assert found(schema, b"") == ["/id is required"]
    assert not found(schema, b"\x0a\x01x")


def test_the_message_is_the_named_one_or_the_type_s_or_the_only_one(tmp_path: Path) -> None:
    files = descriptor_pb2.FileDescriptorSet()
    needed = files.file.add(name="a.proto", package="shop", syntax="proto3")
    needed.message_type.add(name="Money")
    last = files.file.add(name="b.proto", package="shop", syntax="proto3", dependency=["a.proto"])
    last.dependency.append("google/protobuf/timestamp.proto")
    last.message_type.add(name="Order")
    only = files.SerializeToString()
    last.message_type.add(name="Refund")
    several = files.SerializeToString()

    assert load("t.desc", only, "order", None).descriptor.full_name == "shop.Order"
    assert load("t.desc", several, "shop.Refund", None).descriptor.full_name == "shop.Refund"
    with pytest.raises(NotASchema, match=r"shop\.Money, shop\.Order, shop\.Refund"):
        load("t.desc", several, "order", None)
    with pytest.raises(NotASchema, match=r"no message shop\.Nothing"):
        load("t.desc", several, "order", "shop.Nothing")

    (tmp_path / "order.desc").write_bytes(several)
    (tmp_path / "order.message").write_text("shop.Money\n")
    schema = load_file(tmp_path / "order.desc")
    assert isinstance(schema, ProtobufSchema)
    assert schema.descriptor.full_name == "shop.Money"


def test_a_set_that_lacks_what_it_imports_is_told() -> None:
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="b.proto", syntax="proto3", dependency=["a.proto"])
    file.message_type.add(name="Order")
    with pytest.raises(NotASchema, match="--include_imports"):
        load("t.desc", files.SerializeToString(), "order", None)
    with pytest.raises(NotASchema, match="empty"):
        load("t.desc", b"", "order", None)


def breaks(old: ProtobufSchema, new: ProtobufSchema) -> list[Break]:
    return list(compare(old, new).backward)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ([("a", 1, "int64")], [("a", 1, "int32")], "type changed from int64 to int32"),
        ([("a", 1, "string")], [("b", 1, "int32")], "field number 1 reused: was string"),
        ([("a", 1, "string")], [("b", 1, "string")], "field 1 is called b"),
        ([("a", 1, "string")], [], "field 1 removed"),
        ([("a", 1, "repeated int32")], [("a", 1, "int32")], "repeated became single"),
        ([("a", 1, "enum:X,Y")], [("a", 1, "enum:X,Z")], "enum number 1 is called Z, was Y"),
        ([("o", 1, "Order"), ("a", 2, "int64")], [("o", 1, "Order"), ("a", 2, "bool")], "type"),
    ],
)
def test_what_breaks_protobuf_is_told(old: Any, new: Any, why: str) -> None:
    [one] = breaks(protobuf(*old), protobuf(*new))

    assert one.why.startswith(why)
    assert one.is_certain is ("is called" not in one.why)


def test_what_protobuf_reads_without_loss_is_no_break() -> None:
    old = protobuf(("a", 1, "int32"), ("b", 2, "string"), ("e", 3, "enum:X,Y"))
    new = protobuf(
        ("a", 1, "int64"), ("b", 2, "repeated bytes"), ("e", 3, "enum:X,Y,Z"), ("o", 4, "Order")
    )

    assert not breaks(old, new)
    assert {one.path for one in breaks(new, old)} == {"/a", "/b", "/o"}


def test_required_closed_and_exclusive_fields_break() -> None:
    old = protobuf(("a", 1, "int32"), ("b", 2, "int32"), ("e", 3, "enum:X,Y"), syntax="proto2")
    new = protobuf(
        ("a", 1, "int32"),
        ("b", 2, "int32"),
        ("e", 3, "enum:X"),
        ("r", 4, "required int32"),
        syntax="proto2",
        choice=("a", "b"),
    )

    assert [one.why for one in breaks(old, new)] == [
        "enum value removed: Y = 1",
        "required field added",
        "fields moved into oneof choice: only one would be kept",
    ]
