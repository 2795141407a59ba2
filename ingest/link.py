"""The publisher that ingest serves with, from before the broker is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import tenacity

from keylane.broker import Broker, OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerError, BrokerUnavailable

log = structlog.get_logger()

#: Seconds between two tries to reach a broker that is away, at most.
MAX_RETRY_S: Final = 5.0


class BrokerLink:
    """A `Publisher` that is not connected until `keep_connected` has opened the real one.

    With a `name` it deduplicates, as `Broker.publisher` says.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        create: Callable[[], Awaitable[None]],
        *,
        name: str | None = None,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._create = create
        self._name = name
        self._publisher: Publisher | None = None

    async def keep_connected(self) -> None:
        """Open the publisher, which then stays connected by itself; ends only by an error.

        The topic is created if it is missing. Raises `ConfigurationError` if there is one that is
        not partitioned.
        """
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(BrokerError),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=MAX_RETRY_S),
            before_sleep=_log_failure,
        )
        self._publisher = await retrying(self._open)
        log.info("broker.connected", topic=self._topic)
        await asyncio.get_running_loop().create_future()

    async def _open(self) -> Publisher:
        # A producer on a missing topic would make the broker create one without partitions; and one
        # that is there may not deduplicate yet.
        if self._name is not None or await self._broker.partitions(self._topic) == 0:
            await self._create()
        if self._name is None:
            return await self._broker.publisher(self._topic)
        return await self._broker.publisher(self._topic, name=self._name, deduplicate=True)

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
