"""Messages and deliveries made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from typing_extensions import override

from dispatch.delivery import Delivery
from keylane.broker import Position, Received
from keylane.event import Event, to_message


@dataclass
class Message:
    """A received message."""

    key: str = "Ada"
    payload: bytes = b"{}"
    attributes: dict[str, str] = field(default_factory=dict)
    position: Position = (7, 3, -1)
    redelivery_count: int = 0
    event_time_ms: int = 1_700_000_000_000
    publish_time_ms: int = 1_700_000_000_500

    def value(self) -> bytes:
        return self.payload

    def properties(self) -> dict[str, str]:
        return dict(self.attributes)


class BrokenMessage(Message):
    """Another producer's, with properties that are not UTF-8."""

    @override
    def properties(self) -> dict[str, str]:
        return {"name": b"\xff".decode()}


def positions(messages: Iterable[Received]) -> list[Position]:
    return [message.position for message in messages]


def make_message(event: Event) -> Message:
    """The event as it would come back from the broker."""
    sent = to_message(event)
    return Message(sent.key, sent.value, dict(sent.properties), event_time_ms=sent.event_time_ms)


def make_delivery(payload: bytes = b"{}", attempt: int = 1, **attributes: str) -> Delivery:
    """A delivery of an event of Ada's; attributes are the event's own."""
    event = Event(
        **{"id": "event-1", "user": "Ada", **attributes},  # type: ignore[arg-type]
        payload=payload,
        accepted_at_ms=1_700_000_000_000,
    )
    return Delivery(make_message(event), 0, attempt)
