"""Messages and deliveries made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from dispatch.delivery import Delivery
from dispatch.destinationcontract import ContractMessage as Message
from dispatch.destinationcontract import UnreadableMessage as BrokenMessage
from keylane.broker import Position, Received
from keylane.event import Event, to_message

__all__ = ["BrokenMessage", "Message", "make_delivery", "positions"]


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
