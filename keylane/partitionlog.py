"""One partition's log in memory: messages, where they are stored, and the hash of their keys."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from keylane.broker import OutgoingMessage, Position


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in the log. Without a key its hash is that of its position."""

    position: Position
    key: str
    key_hash: int
    payload: bytes
    attributes: Mapping[str, str]
    event_time_ms: int
    publish_time_ms: int


@dataclass(frozen=True, slots=True)
class MemoryMessage:
    """A message as it was sent to a consumer; a `keylane.broker.Received`."""

    stored: StoredMessage
    redelivery_count: int

    @property
    def key(self) -> str:
        return self.stored.key

    @property
    def position(self) -> Position:
        return self.stored.position

    @property
    def event_time_ms(self) -> int:
        return self.stored.event_time_ms

    @property
    def publish_time_ms(self) -> int:
        return self.stored.publish_time_ms

    def value(self) -> bytes:
        return self.stored.payload

    def properties(self) -> dict[str, str]:
        return dict(self.stored.attributes)


class PartitionLog:
    """An append-only log in ledgers. Nothing is ever deleted, as if retention had no end."""

    def __init__(self, first_ledger: int = 0) -> None:
        self.messages: list[StoredMessage] = []
        self._ledger = first_ledger
        self._starts = {first_ledger: 0}

    def __len__(self) -> int:
        return len(self.messages)

    def append(self, message: OutgoingMessage, now_ms: int = 0) -> Position:
        position = (self._ledger, len(self.messages) - self._starts[self._ledger], -1)
        self.messages.append(
            StoredMessage(
                position,
                message.key,
                hash_of(message.key or f"{position[0]}:{position[1]}"),
                message.value,
                dict(message.properties),
                message.event_time_ms,
                now_ms,
            )
        )
        return position

    def start_ledger(self) -> None:
        """Go on in a new ledger, as the broker does when it loads a topic."""
        self._ledger += 1
        self._starts[self._ledger] = len(self.messages)

    def index_of(self, position: Position) -> int | None:
        """The place of a position in `messages`; None when nothing is stored there."""
        ledger, entry, _ = position
        index = self._starts.get(ledger, len(self.messages)) + entry
        if index < len(self.messages) and self.messages[index].position == position:
            return index
        return None

    def at(self, position: Position) -> StoredMessage:
        return self.messages[self._starts[position[0]] + position[1]]


def hash_of(key: str) -> int:
    """The sticky hash by which a key is given to a consumer; 32 bits, the same in every run."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))
