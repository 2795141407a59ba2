"""What a destination is handed: one event, one attempt."""

from __future__ import annotations

import contextlib

from keylane.broker import Received
from keylane.errors import ContractError
from keylane.event import CORRELATION, Event, from_message


class Delivery:
    """One attempt at one event. The event is read from its message when first asked for."""

    __slots__ = ("_event", "attempt", "message", "partition")

    def __init__(self, message: Received, partition: int, attempt: int) -> None:
        self.message = message
        self.partition = partition
        #: 1 for the first.
        self.attempt = attempt
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """Raises `ContractError` if the message can't be read as one."""
        if self._event is None:
            try:
                self._event = from_message(self.message, self.partition)
            except UnicodeDecodeError as error:
                raise ContractError(f"the message's properties are not UTF-8: {error}") from error
        return self._event

    @property
    def position(self) -> str:
        """`partition:ledger:entry`, with the index in a batch behind it; grows per user."""
        ledger, entry, index = self.message.position
        place = f"{self.partition}:{ledger}:{entry}"
        return place if index < 0 else f"{place}:{index}"

    @property
    def accepted_at_ms(self) -> int:
        return self.message.event_time_ms or self.message.publish_time_ms

    def facts(self) -> dict[str, object]:
        """What every log line about the event carries."""
        facts: dict[str, object] = {
            "user": self.message.key,
            "attempt": self.attempt,
            "position": self.position,
        }
        with contextlib.suppress(ContractError):
            event = self.event
            facts["id"] = event.id
            if parent := event.extensions.get("traceparent"):
                facts["trace"] = parent[3:35]
            if correlation := event.extensions.get(CORRELATION):
                facts["correlation"] = correlation
        return facts
