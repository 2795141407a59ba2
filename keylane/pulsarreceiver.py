"""A worker's consumer of one partition, as the client has it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, cast

from keylane.broker import Position, Received
from keylane.errors import BrokerUnavailable
from keylane.pulsarclient import ClientError, TimedOut, close_all, is_ok, message_id_of
from keylane.pulsarmessage import PulsarMessage


class Receiver:
    """One partition's consumer. Its methods raise `BrokerUnavailable` when the client refuses."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        # What is inside the client's public object: its wrappers around each message and each call
        # are a tenth of what a worker does for an event.
        self._inner = consumer._consumer  # noqa: SLF001

    def is_connected(self) -> bool:
        return cast(bool, self._consumer.is_connected())

    def receive(self, at_most: int, timeout_ms: int) -> list[PulsarMessage]:
        """Wait for a message, then take what else is there; empty when none came in time."""
        receive = self._inner.receive
        batch: list[PulsarMessage] = []
        try:
            batch.append(PulsarMessage(receive(timeout_ms)))
            while len(batch) < at_most:
                batch.append(PulsarMessage(receive(0)))
        except TimedOut:
            pass
        except ClientError as error:
            raise BrokerUnavailable(str(error)) from error
        return batch

    def drop_stale(self) -> None:
        """Empty the client's queue while the connection is lost.

        The client does that too, but says that it is connected a moment before.
        """
        with contextlib.suppress(ClientError):
            while not self._consumer.is_connected():
                self._consumer.receive(0)

    def acknowledge(self, messages: Iterable[Received]) -> None:
        acknowledge = self._inner.acknowledge
        try:
            for message in messages:
                acknowledge(cast(PulsarMessage, message).raw)
        except ClientError as error:
            raise BrokerUnavailable(str(error)) from error

    def negative_acknowledge(self, positions: Iterable[Position]) -> None:
        give_back = self._consumer.negative_acknowledge
        try:
            for position in positions:
                give_back(message_id_of(position))
        except ClientError as error:
            raise BrokerUnavailable(str(error)) from error

    def ask(self, answered: Callable[[str], None]) -> None:
        """Put a small question to the broker; the answer comes on any thread, empty if it is well.

        It comes behind whatever the broker has said before, also that we are removed.
        """

        def on_answer(result: Any, _: Any) -> None:
            answered("" if is_ok(result) else str(result))

        try:
            self._inner.get_last_message_id_async(on_answer)
        except ClientError as error:
            raise BrokerUnavailable(f"The broker's client refused to ask: {error}") from error

    def close(self) -> None:
        close_all([self._consumer])
