"""Everything that Keylane raises on purpose.

    KeylaneError                    root; knows no HTTP status and no exit code
      ConfigurationError            a setting is wrong or unknown; nothing was started
      ContractError                 bytes that are not an event; never worth a retry
      MissingPiece                  a program or file this machine lacks; says what to install
      BrokerError
        BrokerUnavailable           no connection, or no answer in time; nothing was done
        SubscriptionBusy            somebody else consumes what only one may
        EventTooLarge               over the broker's limit; nothing was stored
        PublishUnconfirmed          no receipt in time; may or may not be stored

What a destination answers is no exception: it is an `Outcome` (dispatch/outcome.py).
Which HTTP status an error becomes stands in ingest/problems.py, which exit code in
operate/exits.py.
"""

from __future__ import annotations


class KeylaneError(Exception):
    """Keylane could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class ConfigurationError(KeylaneError):
    """A setting is wrong; nothing was started."""


class ContractError(KeylaneError):
    """These bytes are not an event."""


class MissingPiece(KeylaneError):  # noqa: N818  named by the fact
    """A program that is needed is not on this machine."""


class BrokerError(KeylaneError):
    """The broker refused."""


class BrokerUnavailable(BrokerError):  # noqa: N818  named by the fact
    """The broker cannot be reached; nothing was done. Start it, or check the service URL."""


class SubscriptionBusy(BrokerError):  # noqa: N818  named by the fact
    """Another consumer is on the subscription; nothing was done. Wait for it or end it."""


class EventTooLarge(BrokerError):  # noqa: N818  named by the fact
    """The event is larger than the broker takes; it was not stored."""


class PublishUnconfirmed(BrokerError):  # noqa: N818  named by the fact
    """The broker sent no receipt in time; the event may or may not be stored."""
