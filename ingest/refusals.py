"""Why a request is not accepted; which HTTP status each becomes stands in ingest/problems.py.

    KeylaneError
      ContractError
        MalformedBody         not JSON, not UTF-8, or nested too deeply
        InvalidEvents         names each bad element by index and field
        SchemaViolated        names each payload that does not fit its type's schema
      NotAuthenticated        no key, or one that is not known
      NotAllowed              the key may not do this
      RateLimited             this key or address sends too much
      StillRunning            a request with the same idempotency key, or event id, is under way
      KeyReused               the idempotency key came with another body before
      StoreUnavailable        repeats can't be recognized now
      BodyTooSlow             the body did not arrive in time
      BodyTooLarge            more bytes than a body may have
      TooManyEvents           more events than a request may have
      PayloadsTooLarge        names each element whose payload is too large
      WrongMediaType          a type or encoding that is not taken
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


class SchemaViolated(InvalidEvents):
    """Payloads don't fit the schema of their type; no event of the request was accepted."""


class NotAuthenticated(KeylaneError):  # noqa: N818  named by the fact
    """Send a known API key: `Authorization: Bearer KEY`."""


class NotAllowed(KeylaneError):  # noqa: N818  named by the fact
    """This API key may not do that."""


class TryLater(KeylaneError):  # noqa: N818  named by what to do
    """The same request may succeed after `retry_after_s`."""

    def __init__(self, retry_after_s: float, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(TryLater):
    """This key or address sends more than it may; nothing of this request was sent."""


class StillRunning(TryLater):
    """The same request, or event, is being stored; ask again for what became of it."""


class KeyReused(KeylaneError):  # noqa: N818  named by the fact
    """This Idempotency-Key came with another request before; take a new one."""


class StoreUnavailable(KeylaneError):  # noqa: N818  named by the fact
    """Repeats can't be recognized now, so nothing of this request was sent."""


class BodyTooSlow(KeylaneError):  # noqa: N818  named by the fact
    """The body did not arrive in time; nothing of this request was sent."""


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
    """The body is of a type or encoding that is not taken."""


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
