"""An event, and how it lies on the topic: a CloudEvent in binary mode.

The value is the payload exactly as it was received. The attributes are message properties, named
as the CloudEvents Kafka binding names its headers (`ce_id`, `ce_type`, ...; `content-type`), so
that any Pulsar client can read them. The trace context keeps the names of the W3C headers.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from keylane.broker import OutgoingMessage, Received
from keylane.place import origin_id

MAX_USER_CHARACTERS: Final = 256
MAX_ID_CHARACTERS: Final = 256
DEFAULT_SOURCE: Final = "keylane"
DEFAULT_TYPE: Final = "keylane.event"
DEFAULT_CONTENT_TYPE: Final = "application/json"
#: Extensions of a message that are kept under their own name, without `ce_`.
TRACE_PROPERTIES: Final = ("traceparent", "tracestate")
#: The extension that ties an event to a request, as CloudEvents' own extension names it.
CORRELATION: Final = "correlationid"


class Event(msgspec.Struct, frozen=True):
    """One thing that happened to one user.

    `time` is RFC 3339. `extensions` are CloudEvents extension attributes and the trace context,
    by their names without `ce_`. `accepted_at_ms` is when ingest took it, since 1970.
    """

    id: str
    user: str
    payload: bytes
    type: str = DEFAULT_TYPE
    source: str = DEFAULT_SOURCE
    time: str = ""
    content_type: str = DEFAULT_CONTENT_TYPE
    accepted_at_ms: int = 0
    extensions: Mapping[str, str] = msgspec.field(default_factory=dict)


def new_event_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by the millisecond of its making."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as `2026-01-31T12:00:00.000Z`."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def to_message(event: Event) -> OutgoingMessage:
    """Lay the event out for the topic."""
    properties = {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": event.source,
        "ce_type": event.type,
        "ce_time": event.time or rfc3339(event.accepted_at_ms),
        "content-type": event.content_type,
    }
    for name, value in event.extensions.items():
        properties[name if name in TRACE_PROPERTIES else f"ce_{name}"] = value
    return OutgoingMessage(event.user, event.payload, properties, event.accepted_at_ms)


_ATTRIBUTES = frozenset(
    {"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"}
)


def from_message(message: Received, partition: int) -> Event:
    """Read an event back; a message of another producer gets defaults for what it lacks.

    Its id is then `<ledger>:<entry>:<partition>`, with the index in the batch behind if there is
    one: constant over redeliveries. A message without a key keeps an empty user.
    """
    properties = message.properties()
    accepted_at_ms = message.event_time_ms or message.publish_time_ms
    return Event(
        id=properties.get("ce_id") or origin_id(partition, message.position),
        user=message.key,
        payload=message.value(),
        type=properties.get("ce_type") or DEFAULT_TYPE,
        source=properties.get("ce_source") or DEFAULT_SOURCE,
        time=properties.get("ce_time") or rfc3339(accepted_at_ms),
        content_type=properties.get("content-type") or DEFAULT_CONTENT_TYPE,
        accepted_at_ms=accepted_at_ms,
        extensions={} if properties.keys() <= _ATTRIBUTES else _extensions(properties),
    )


def _extensions(properties: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("ce_"): value
        for name, value in properties.items()
        if name not in _ATTRIBUTES and (name.startswith("ce_") or name in TRACE_PROPERTIES)
    }
