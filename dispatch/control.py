"""What was said of a destination as a whole, and holds for all its workers until it is taken back.

It is kept by the broker, in a table of the topic's destinations: a worker that starts later, or
anywhere else, finds it there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson

from dispatch.connections import Subscription
from dispatch.pace import Pace
from keylane.broker import Broker, Table
from keylane.errors import BrokerError
from keylane.event import rfc3339
from keylane.names import control_topic


def disabled(reason: str) -> bytes:
    """What the table keeps of a destination that wants nothing more."""
    at = rfc3339(time.time_ns() // 1_000_000)
    return orjson.dumps({"disabled": reason, "at": at})


#: Of one that was enabled again: the table forgets it.
ENABLED = b""


class Control:
    """Hears for one worker, and says what its destination answered."""

    def __init__(
        self,
        broker: Broker,
        subscription: Subscription,
        pace: Pace,
        log: Any,
        step_soon: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._subscription = subscription
        self._pace = pace
        self._log = log
        self._step_soon = step_soon
        self._table: Table | None = None
        self._saying: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Without a table everything goes on, and a destination is disabled for one worker."""
        try:
            topic = control_topic(self._subscription.topic)
            self._table = await self._broker.table(topic, self._hear)
        except BrokerError as error:
            self._log.warning(
                "control.unavailable",
                error=str(error),
                consequence="a destination that is disabled is so for this worker only",
            )

    async def close(self) -> None:
        await asyncio.gather(*self._saying, return_exceptions=True)
        if self._table:
            await self._table.close()

    def disable(self, reason: str) -> None:
        """Start no attempt until somebody resumes the destination, here and elsewhere."""
        if self._pace.suspended_because is not None:
            return
        self._suspend(reason)
        if self._table is not None:
            task = asyncio.get_running_loop().create_task(self._say(self._table, reason))
            self._saying.add(task)
            task.add_done_callback(self._saying.discard)

    async def _say(self, table: Table, reason: str) -> None:
        try:
            await table.put(self._subscription.name, disabled(reason))
        except BrokerError as error:
            self._log.warning(
                "control.unconfirmed",
                error=str(error),
                consequence="other workers find out by themselves",
            )

    def _hear(self, destination: str, value: bytes) -> None:
        if destination != self._subscription.name:
            return
        try:
            reason = str(orjson.loads(value)["disabled"]) if value else None
        except (ValueError, KeyError, TypeError) as error:
            # Anybody may publish there; no worker must end of it.
            self._log.warning("control.unreadable", error=str(error))
            return
        if reason is not None:
            self._suspend(reason)
        elif self._pace.suspended_because is not None:
            self._pace.suspended_because = None
            self._log.info("destination.resumed", consequence="attempts go on")
            self._step_soon()

    def _suspend(self, reason: str) -> None:
        if self._pace.suspended_because is None:
            self._log.error(
                "destination.disabled",
                reason=reason,
                consequence="no attempts, none is counted; events wait in order",
                what_to_do=f"keylane destination resume {self._subscription.name}",
            )
        self._pace.suspended_because = reason
