"""Readers of topics, as the client has them: they leave no trace at the broker."""

from __future__ import annotations

from keylane.broker import Position
from keylane.errors import BrokerUnavailable
from keylane.pulsarclient import Client, ClientError, TimedOut, close_all
from keylane.pulsarmessage import PulsarMessage


class TableReader:
    """Reads a compacted topic, on a client of its own; opening blocks.

    Opening raises `BrokerUnavailable`; so does `read` when the client refuses.
    """

    def __init__(self, client: Client, topic: str, after: Position | None) -> None:
        self._client = client
        try:
            self._reader = client.reader_behind(topic, after, compacted=True)
        except BaseException:
            client.close()
            raise

    def read(self, at_most: int, timeout_ms: int) -> list[tuple[str, bytes, Position]]:
        """Wait for a message, then take what else is there; empty when none came in time."""
        read_next = self._reader.read_next
        batch: list[tuple[str, bytes, Position]] = []
        try:
            while len(batch) < at_most:
                message = PulsarMessage(read_next(0 if batch else timeout_ms))
                batch.append((message.key, message.value(), message.position))
        except TimedOut:
            pass
        except ClientError as error:
            if not batch:
                raise BrokerUnavailable(str(error)) from error
        return batch

    def close(self) -> None:
        close_all([self._reader, self._client])
