"""Protobuf, by descriptor sets as `protoc --include_imports --descriptor_set_out` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

from ingest.schemas.violations import Language, NotASchema, Path, Violation, cut

SUFFIX: Final = ".desc"
#: Beside `TYPE.desc`: the full name of the message, where the set holds several.
SIDECAR_SUFFIX: Final = ".message"


class ProtobufSchema:
    """One message type. A payload decodes completely: fields that it does not have are wrong."""

    language: Final = Language.PROTOBUF

    def __init__(self, name: str, descriptor: Any) -> None:
        self.name = name
        self.descriptor = descriptor
        self._class = message_factory.GetMessageClass(descriptor)

    def violations(self, payload: bytes) -> Iterator[Violation]:
        message = self._class()
        try:
            message.ParseFromString(payload)
        except DecodeError:
            yield Violation((), f"can't be read as {self.descriptor.full_name}")
            return
        for place in message.FindInitializationErrors():
            yield Violation(tuple(place.split(".")), "is required")
        yield from _unknown(message, ())

    def violations_in_json(self, payload: bytes) -> Iterator[Violation]:
        try:
            json_format.Parse(payload, self._class())
        except (json_format.ParseError, UnicodeDecodeError) as error:
            yield Violation((), cut(str(error)))


def load(name: str, content: bytes, event_type: str, message: str | None) -> ProtobufSchema:
    """Find the message that a set is for; raises `NotASchema`.

    It is the one that is named, else the one called as the event type, else the only one.
    """
    files = descriptor_pb2.FileDescriptorSet()
    try:
        files.ParseFromString(content)
    except DecodeError as error:
        raise NotASchema("is no Protobuf descriptor set") from error
    if not files.file:
        raise NotASchema("is an empty Protobuf descriptor set")
    pool = _pool(files.file)
    names = [
        f"{file.package}.{found.name}".lstrip(".")
        for file in files.file
        for found in file.message_type
    ]
    return ProtobufSchema(name, _chosen(pool, files.file[-1], names, event_type, message))


def _pool(files: Any) -> Any:
    pool = descriptor_pool.DescriptorPool()
    given = {file.name for file in files}
    try:
        for file in files:
            for needed in file.dependency:
                if needed not in given and needed.startswith("google/protobuf/"):
                    given.add(needed)
                    _add_well_known(pool, needed)
            pool.Add(file)
        for file in files:
            pool.FindFileByName(file.name)
    except (KeyError, TypeError, ValueError) as error:
        raise NotASchema(
            cut(f"is not complete, write it with protoc --include_imports ({error})")
        ) from error
    return pool


def _add_well_known(pool: Any, name: str) -> None:
    """The types that come with Protobuf are known without `--include_imports`."""
    from google.protobuf import (  # noqa: F401  they register
        any_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )

    known = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(known)
    pool.Add(known)


def _chosen(pool: Any, last: Any, names: list[str], event_type: str, message: str | None) -> Any:
    if message is None:
        # protoc puts the file that it was asked for behind those that it imports.
        own = [f"{last.package}.{found.name}".lstrip(".") for found in last.message_type]
        message = event_type if event_type in names else own[0] if len(own) == 1 else None
    if message is None:
        raise NotASchema(
            cut(
                f"holds several messages or none ({', '.join(names)}): put the full name of the "
                f"right one into a file with the suffix {SIDECAR_SUFFIX}"
            )
        )
    try:
        return pool.FindMessageTypeByName(message)
    except KeyError as error:
        raise NotASchema(cut(f"has no message {message}; has {', '.join(names)}")) from error


def _unknown(message: Any, path: Path) -> Iterator[Violation]:
    for field in UnknownFieldSet(message):
        yield Violation(
            path, f"has a field {field.field_number} that {message.DESCRIPTOR.full_name} lacks"
        )
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for step, inner in _inner(field, value):
            yield from _unknown(inner, (*path, field.name, *step))


def _inner(field: Any, value: Any) -> Iterator[tuple[Path, Any]]:
    """The messages in a field, each with the way to it."""
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is not None:
            yield from (((str(key),), value[key]) for key in value)
    elif field.is_repeated:
        yield from (((index,), inner) for index, inner in enumerate(value))
    else:
        yield (), value
