"""An event that one destination is to get once more: how it lies on that destination's own topic.

It has the key, value and properties of the event, and beside them where the event lay, and for what
it is sent again. Behind a user's last event of a redrive there is an end mark, which has no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keylane.broker import OutgoingMessage, Position
from keylane.names import partition_topic
from keylane.place import origin_id

#: The topic's partition where the event lay first, and its place there: `ledger:entry:partition`.
#: The names are those of Pulsar's own dead letters.
REAL_TOPIC: Final = "REAL_TOPIC"
ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
#: The token of the redrive, or the id of the replay, that it is sent for.
REDRIVE: Final = "keylane-redrive"
REPLAY: Final = "keylane-replay"
#: On an end mark: the redrive's token.
END: Final = "keylane-redrive-end"

#: What is said of a dead letter by its properties, and is not the event's own.
DEAD_LETTER_PROPERTIES: Final = frozenset(
    {
        *("REAL_SUBSCRIPTION", "keylane-reason", "keylane-attempts", "keylane-first-attempt-at"),
        *("keylane-last-attempt-at", "keylane-last-status", "keylane-last-error"),
        *("keylane-last-answer", REDRIVE, REPLAY),
    }
)


def redriven(
    key: str, value: bytes, properties: Mapping[str, str], event_time_ms: int, token: str
) -> OutgoingMessage:
    """A dead letter, to be delivered once more, without what was said of it as a dead letter."""
    own = {k: v for k, v in properties.items() if k not in DEAD_LETTER_PROPERTIES}
    return OutgoingMessage(key, value, {**own, REDRIVE: token}, event_time_ms)


def replayed(
    key: str,
    value: bytes,
    properties: Mapping[str, str],
    event_time_ms: int,
    origin: tuple[str, int, Position],
    replay: str,
) -> OutgoingMessage:
    """An event of the topic, to be delivered once more; `origin` is topic, partition and place."""
    topic, partition, position = origin
    own = {
        **properties,
        REAL_TOPIC: partition_topic(topic, partition),
        ORIGIN_MESSAGE_ID: origin_id(partition, position),
        REPLAY: replay,
    }
    return OutgoingMessage(key, value, own, event_time_ms)


def end_of(token: str, user: str) -> OutgoingMessage:
    """Behind the last event of a user that a redrive sends."""
    return OutgoingMessage(user, b"", {END: token})


def origin_of(properties: Mapping[str, str]) -> tuple[int, Position] | None:
    """The partition and the place of the event itself; None if it does not say."""
    try:
        ledger, entry, partition, *index = properties[ORIGIN_MESSAGE_ID].split(":")
        return int(partition), (int(ledger), int(entry), int(index[0]) if index else -1)
    except (KeyError, ValueError):
        return None
