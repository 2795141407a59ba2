"""Why a request is not accepted; which HTTP status each becomes stands in ingest/problems.py.

    KeylaneError
      ContractError
        MalformedBody         not JSON, not UTF-8, or nested too deeply
        InvalidEvents         names each bad element by index and field
      BodyTooLarge            more bytes than a body may have
      TooManyEvents           more events than a request may have
      PayloadsTooLarge        names each element whose payload is too large
      WrongMediaType          not sent as application/json
      TooManyInFlight         too much is waiting for the broker's receipts already
      ShuttingDown            this process takes nothing new
      BrokerUnavailable       (keylane/errors.py) nothing was sent
      NotConfirmed            sent, but not every receipt came; says which did
      RefusedByBroker         the broker found an event too large; says which were stored

Nothing of a request was sent to the broker unless the last two say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from keylane.errors import ContractError, KeylaneError


class ElementError(msgspec.Struct, frozen=True):
    """What is wrong with one element of the request's array."""

    index: int
    #: The member's name as it was sent; empty when the element as a whole is meant.
    field: str
    detail: str


class Fate(StrEnum):
    """What became of one event of a request that was not accepted as a whole."""

    #: The broker stored it: repeating it makes a duplicate.
    CONFIRMED = "confirmed"
    #: Stored or not; repeating it is right if a duplicate does less harm than a loss.
    UNKNOWN = "unknown"
    #: It never left this process.
    NOT_SENT = "not-sent"
    #: The broker refused it and will again.
    TOO_LARGE = "too-large"


class EventFate(msgspec.Struct, frozen=True):
    """One event of such a request, at its place in it."""

    index: int
    id: str
    user: str
    status: str


class MalformedBody(ContractError):  # noqa: N818  named by the fact
    """The body can't be read as JSON."""


class InvalidEvents(ContractError):  # noqa: N818  named by the fact
    """The body holds elements that are no events; none was accepted."""

    def __init__(self, errors: Sequence[ElementError], message: str | None = None) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class BodyTooLarge(KeylaneError):  # noqa: N818  named by the fact
    """The body is larger than a request may be."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"A body may have {limit_bytes} bytes; send fewer events a request.")


class TooManyEvents(KeylaneError):  # noqa: N818  named by the fact
    """The array is longer than a request's may be."""

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(f"A request may have {limit} events; this one has {count}.")


class PayloadsTooLarge(KeylaneError):  # noqa: N818  named by the fact
    """Payloads are larger than one may be; no event of the request was accepted."""

    def __init__(self, errors: Sequence[ElementError]) -> None:
        super().__init__()
        self.errors = tuple(errors)


class WrongMediaType(KeylaneError):  # noqa: N818  named by the fact
    """Events are taken as application/json in UTF-8, not compressed."""


class TooManyInFlight(KeylaneError):  # noqa: N818  named by the fact
    """Too many events wait for the broker's receipt; nothing of this request was sent."""


class ShuttingDown(KeylaneError):  # noqa: N818  named by the fact
    """This server is shutting down; nothing of this request was sent."""


class NotConfirmed(KeylaneError):  # noqa: N818  named by the fact
    """The broker did not confirm every event; `events` says what is known of each."""

    def __init__(self, events: Sequence[EventFate]) -> None:
        super().__init__()
        self.events = tuple(events)


class RefusedByBroker(NotConfirmed):
    """The broker refused an event as too large; `events` says what is known of each."""

    @property
    def errors(self) -> tuple[ElementError, ...]:
        return tuple(
            ElementError(event.index, "Payload", "is too large for the broker")
            for event in self.events
            if event.status == Fate.TOO_LARGE
        )
