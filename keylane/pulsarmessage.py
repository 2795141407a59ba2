"""A message as the lanes need it, around the object of Pulsar's client."""

from __future__ import annotations

from typing import Any, cast

from keylane.broker import Position


class PulsarMessage:
    """A message with what the lanes need of it read once; the rest is read when asked for."""

    __slots__ = ("key", "position", "raw", "redelivery_count")

    def __init__(self, raw: Any) -> None:
        message_id = raw.message_id()
        self.raw = raw
        try:
            self.key = cast(str, raw.partition_key())
        except UnicodeDecodeError:
            # Another producer's bytes, which can't be a user's id: a lane of its own.
            self.key = ""
        self.position: Position = (
            message_id.ledger_id(),
            message_id.entry_id(),
            message_id.batch_index(),
        )
        self.redelivery_count = cast(int, raw.redelivery_count())

    @property
    def event_time_ms(self) -> int:
        return cast(int, self.raw.event_timestamp())

    @property
    def publish_time_ms(self) -> int:
        return cast(int, self.raw.publish_timestamp())

    def value(self) -> bytes:
        return cast(bytes, self.raw.data())

    def properties(self) -> dict[str, str]:
        return cast(dict[str, str], self.raw.properties())
