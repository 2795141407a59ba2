"""The publisher that ingest serves with, from before the broker is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import tenacity

from keylane.broker import Broker, OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerError, BrokerUnavailable

log = structlog.get_logger()

#: Seconds between two tries to reach a broker that is away, at most.
MAX_RETRY_S: Final = 5.0
#: Seconds that a publisher may be without connection before it is opened anew, and between two
#: looks at it.
REOPEN_AFTER_S: Final = 10.0
LOOK_EVERY_S: Final = 0.5
#: Seconds for the client to close what it can't tell the broker.
CLOSE_S: Final = 5.0


class BrokerLink:
    """A `Publisher` that is not connected until `keep_connected` has opened the real one.

    The broker's client restores lost connections on its own, mostly: after a restart of the broker
    it was seen to hang for minutes. So one that stays away is closed and opened anew.
    """

    def __init__(self, broker: Broker, topic: str, create: Callable[[], Awaitable[None]]) -> None:
        self._broker = broker
        self._topic = topic
        self._create = create
        self._publisher: Publisher | None = None

    async def keep_connected(self) -> None:
        """Open the publisher, and again whenever it stays away; ends only by an error.

        The topic is created if it is missing. Raises `ConfigurationError` if there is one that is
        not partitioned.
        """
        while True:
            await self._connect()
            await self._until_it_stays_away()
            log.warning("broker.reopening", topic=self._topic, away_s=REOPEN_AFTER_S)
            # Closed first: what it still has unsent must not come after what the next one sends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self.close()

    async def _until_it_stays_away(self) -> None:
        away_s = 0.0
        while away_s < REOPEN_AFTER_S:
            await asyncio.sleep(LOOK_EVERY_S)
            away_s = 0.0 if self.is_connected() else away_s + LOOK_EVERY_S

    async def _connect(self) -> None:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokerError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=MAX_RETRY_S),
            before_sleep=_log_failure,
        )
        self._publisher = await retrying(self._open)
        log.info("broker.connected", topic=self._topic)

    async def _open(self) -> Publisher:
        # A producer on a missing topic would make the broker create one without partitions.
        if await self._broker.partitions(self._topic) == 0:
            await self._create()
        return await self._broker.publisher(self._topic)

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        if self._publisher is None:
            done(BrokerUnavailable())
        else:
            self._publisher.send(message, done)

    def is_connected(self) -> bool:
        return self._publisher is not None and self._publisher.is_connected()

    async def close(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()


def _log_failure(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    # Once is enough: readiness says the rest.
    write = log.warning if state.attempt_number == 1 else log.debug
    write("broker.unavailable", error=str(error), attempt=state.attempt_number)
