"""What a destination is handed: one event, one attempt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dispatch.lane import Entry
from keylane.broker import Received
from keylane.errors import ContractError
from keylane.event import CORRELATION, Event, from_message
from keylane.names import WHOLE
from keylane.place import place_of
from keylane.redriven import REDRIVE, REPLAY, origin_of


class Delivery:
    """One attempt at one event. The event is read from its message when first asked for."""

    __slots__ = ("_event", "attempt", "may_begin", "message", "partition")

    def __init__(
        self,
        message: Received,
        partition: int,
        attempt: int,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self.message = message
        self.partition = partition
        #: 1 for the first.
        self.attempt = attempt
        #: To be asked right before the event is sent, if it was waited for something until then:
        #: the user may be another worker's meanwhile. If not, the outcome is `Withdrawn`.
        self.may_begin = may_begin
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
        """`partition:ledger:entry`, with the index in a batch behind it; grows per user.

        Of an event that is delivered once more it is where the event lay first.
        """
        if self.is_once_more and (origin := origin_of(self._properties())):
            return place_of(*origin)
        return self.place

    @property
    def place(self) -> str:
        """Where this message lies; `position` of an event that is delivered for the first time."""
        return place_of(self.partition, self.message.position)

    @property
    def is_once_more(self) -> bool:
        """The destination is to get the event again: by a redrive, or by a replay."""
        return self.partition == WHOLE

    def purposes(self) -> dict[str, str]:
        """What it is delivered once more for: the redrive's token or the replay's id, by property.

        Empty for an event that is delivered for the first time.
        """
        if not self.is_once_more:
            return {}
        properties = self._properties()
        return {name: properties[name] for name in (REDRIVE, REPLAY) if name in properties}

    def _properties(self) -> dict[str, str]:
        try:
            return self.message.properties()
        except UnicodeDecodeError:
            return {}

    @property
    def remembered_id(self) -> str:
        """The event's id for what remembers deliveries: a replay is a delivery of its own.

        Raises `ContractError` if the message can't be read as an event.
        """
        replay = self.purposes().get(REPLAY)
        return self.event.id if replay is None else f"{self.event.id} {replay}"

    @property
    def accepted_at_ms(self) -> int:
        """Since when attempts may be made; with a redrive that begins anew."""
        if self.is_once_more:
            return self.message.publish_time_ms
        return self.message.event_time_ms or self.message.publish_time_ms

    def facts(self) -> dict[str, object]:
        """What every log line about the event carries."""
        facts: dict[str, object] = {
            "user": self.message.key,
            "attempt": self.attempt,
            "position": self.position,
            **self.purposes(),
        }
        with contextlib.suppress(ContractError):
            event = self.event
            facts["id"] = event.id
            if parent := event.extensions.get("traceparent"):
                facts["trace"] = parent[3:35]
            if correlation := event.extensions.get(CORRELATION):
                facts["correlation"] = correlation
        return facts


def delivery_of(entry: Entry, may_begin: Callable[[], bool] = lambda: True) -> Delivery:
    """The next attempt at the event of an entry that is to be started, or to be buried."""
    if entry.message is None or entry.lane is None:
        raise AssertionError("an entry without its message was started")
    return Delivery(entry.message, entry.lane.partition, entry.attempt, may_begin)
