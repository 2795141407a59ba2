"""The schema that a Pulsar topic has, read over the admin interface."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from ingest.schemas.registry import Schemas
from ingest.schemas.violations import Language, NotASchema, PayloadSchema
from keylane.errors import ConfigurationError
from keylane.names import full_topic

#: Gets a path below `/admin/v2/`; None if it is not there.
Get: TypeAlias = Callable[[str], Awaitable[Mapping[str, Any] | None]]

_AVRO_TYPES: Final = {"AVRO": Language.AVRO, "JSON": Language.JSON}


async def load_from_topic(get: Get, topic: str) -> Schemas | None:
    """What every event of the topic has to fit; None if the topic asks for nothing checkable.

    `AVRO` asks for Avro, `JSON` for JSON of a record that Avro defines, `PROTOBUF_NATIVE` for
    Protobuf. All others say nothing about what bytes hold. Raises `ConfigurationError` if the
    definition can't be used, and what `get` raises.
    """
    tenant, namespace, name = full_topic(topic).removeprefix("persistent://").split("/")
    path = "/".join(quote(part, safe="") for part in (tenant, namespace, name))
    found = await get(f"schemas/{path}/schema")
    if found is None:
        return None
    try:
        schema = _schema_of(str(found.get("type")), str(found.get("data", "")), f"topic {topic}")
    except NotASchema as error:
        raise ConfigurationError(f"The schema of topic {topic} can't be used: {error}") from error
    return None if schema is None else Schemas(for_all=[schema])


def _schema_of(kind: str, data: str, name: str) -> PayloadSchema | None:
    if kind in _AVRO_TYPES:
        from ingest.schemas.avro import AvroSchema, Definition

        return AvroSchema(name, Definition(data.encode()), _AVRO_TYPES[kind])
    if kind == "PROTOBUF_NATIVE":
        from ingest.schemas.protobuf import load

        try:
            told = json.loads(data)
            files = base64.b64decode(told["fileDescriptorSet"], validate=True)
            return load(name, files, "", str(told["rootMessageTypeName"]))
        except (LookupError, TypeError, ValueError) as error:
            raise NotASchema("is no description of a Protobuf message") from error
    return None
