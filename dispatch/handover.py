"""What a destination's workers tell each other about events that change hands.

The broker counts how often it sent an event again, which is not how often it was attempted: the
rest of a lane is given back without an attempt when its key moves. The worker that knows says so.
Nothing depends on it but the number of attempts: an event whose note is lost may get some fewer.
"""

from __future__ import annotations

from typing import Any

import orjson

from dispatch.commands import Note
from dispatch.connections import Subscription
from dispatch.lanes import Lanes
from keylane.broker import Broker, Channel
from keylane.errors import BrokerError
from keylane.names import handover_channel

#: Notes of one message: far below the broker's 5 MiB.
MAX_NOTES = 10_000


class Handover:
    """Says what these lanes know, and tells them what others say."""

    def __init__(self, lanes: Lanes, log: Any) -> None:
        self._lanes = lanes
        self._log = log
        self._channel: Channel | None = None

    async def open(self, broker: Broker, subscription: Subscription) -> None:
        """Without a channel everything goes on, and attempts are counted by the broker alone."""
        name = handover_channel(subscription.topic, subscription.name)
        try:
            self._channel = await broker.channel(name, self._hear)
        except BrokerError as error:
            self._log.warning(
                "handover.unavailable",
                error=str(error),
                consequence="an event that moves to another worker may get some attempts fewer",
            )

    def say(self, notes: list[tuple[int, Note]]) -> None:
        if self._channel is None:
            return
        for start in range(0, len(notes), MAX_NOTES):
            told = notes[start : start + MAX_NOTES]
            self._channel.say(orjson.dumps([[partition, *note] for partition, note in told]))

    def _hear(self, what: bytes) -> None:
        try:
            for partition, position, redeliveries, attempts in orjson.loads(what):
                ledger, entry, index = map(int, position)
                note = Note((ledger, entry, index), int(redeliveries), int(attempts))
                self._lanes.learn(int(partition), note)
        except (ValueError, TypeError) as error:
            # Anybody may publish there; no worker must end of it.
            self._log.warning("handover.unreadable", error=str(error))
