"""A publisher on Pulsar that notices when its connection is dead, and replaces a client that hangs.

The client learns of a connection on which nothing arrives any more only after 30 to 60 s, and after
a restart of the broker it was seen not to come back for minutes. So:

- The broker is asked for the topic's partitions every second. No answer for 3 s, or a send without
  receipt for as long, means "not connected". The question goes the way to the service URL: where
  the brokers behind it have connections of their own, one of those that dies while idle is noticed
  at the first send.
- A publisher that stays away while another client is answered gets that one. What it had unsent is
  told as unconfirmed first, and its connections are closed: it can't come behind what follows.

The same answer tells of partitions that were added.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Final

import structlog

from keylane.broker import OutgoingMessage, Receipt
from keylane.errors import BrokerUnavailable, PublishUnconfirmed
from keylane.pulsarclient import Producers

log = structlog.get_logger()

#: Seconds between two questions, and between two looks at what came of them.
ASK_EVERY_S: Final = 1.0
LOOK_EVERY_S: Final = 0.2
#: Seconds without an answer, or without a receipt, after which the connection counts as lost.
SILENCE_S: Final = 3.0
#: Seconds without connection after which another client is tried, and between two tries.
REOPEN_AFTER_S: Final = 10.0
TRY_EVERY_S: Final = 3.0
#: Seconds more for a client that deduplicates, from when the broker answers others: it sends again
#: by itself what would be unconfirmed otherwise, and its own retries can be so far apart.
PATIENCE_S: Final = 30.0


class PulsarPublisher:
    """Opens the producers by a function that gives it new ones, on a client of their own."""

    def __init__(self, make: Callable[[], Producers], topic: str, *, patience_s: float) -> None:
        self._make = make
        self._topic = topic
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._producers: Producers | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count()
        # In the order of sending; taken out once, by the receipt or by whoever gives up on it.
        self._pending: dict[int, tuple[float, Callable[[Receipt], None]]] = {}
        self._receipt_at = 0.0
        self._asked_at = 0.0
        self._is_asking = False
        self._unanswered_since: float | None = None
        self._is_silent = False
        self._partitions = 0

    async def open(self) -> None:
        """Raises `BrokerUnavailable`."""
        self._producers = await self._opened(self._make())
        self._partitions = self._producers.partitions
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tend())]

    async def _opened(self, producers: Producers) -> Producers:
        try:
            await asyncio.to_thread(producers.open_missing)
        except BaseException:
            producers.shut_down()
            raise
        return producers

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        producers = self._producers
        if producers is None:
            done(BrokerUnavailable("The publisher is not open; nothing was sent."))
            return
        pending, number = self._pending, next(self._numbers)
        pending[number] = time.monotonic(), done

        def settle(receipt: Receipt) -> None:
            if (found := pending.pop(number, None)) is not None:
                self._receipt_at = time.monotonic()
                found[1](receipt)

        producers.send(message, settle)

    def is_connected(self) -> bool:
        return (
            not self._is_silent and self._producers is not None and self._producers.is_connected()
        )

    # --- whether the broker is there --------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            now = time.monotonic()
            self._is_silent = self._is_stuck(now) or self._is_unanswered(now)
            if not self._is_asking and now - self._asked_at >= ASK_EVERY_S:
                self._ask(now)
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_stuck(self, now: float) -> bool:
        with contextlib.suppress(RuntimeError):  # a receipt came in between; so it is not stuck
            oldest = next(iter(self._pending.values()), None)
            return oldest is not None and now - oldest[0] > SILENCE_S
        return False

    def _is_unanswered(self, now: float) -> bool:
        # While receipts come it does not matter that who answers questions is away.
        return (
            self._unanswered_since is not None
            and now - self._unanswered_since > SILENCE_S
            and now - self._receipt_at > SILENCE_S
        )

    def _ask(self, now: float) -> None:
        producers = self._producers
        # A client that knows is not asked: it would log an error each time.
        if producers is None or not producers.is_connected():
            return
        self._is_asking, self._asked_at = True, now
        if self._unanswered_since is None:
            self._unanswered_since = now

        def answered(partitions: int | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                self._loop.call_soon_threadsafe(self._hear, producers, partitions)

        producers.ask_partitions(answered)

    def _hear(self, asked: Producers, partitions: int | None) -> None:
        if asked is not self._producers:
            return
        self._is_asking = False
        if partitions is not None:
            self._unanswered_since = None
            self._partitions = partitions

    # --- more partitions, and a client that hangs -------------------------------------------------

    async def _tend(self) -> None:
        away_since: float | None = None
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self.is_connected():
                away_since = None
                await self._grow()
                continue
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since >= REOPEN_AFTER_S:
                await self._replace()
                await asyncio.sleep(TRY_EVERY_S)

    async def _grow(self) -> None:
        producers = self._producers
        if producers is None or self._partitions <= producers.partitions:
            return
        try:
            await asyncio.to_thread(producers.open_missing)
        except BrokerUnavailable as error:
            log.warning("partitions.unknown", topic=self._topic, error=str(error))
            await asyncio.sleep(TRY_EVERY_S)
        else:
            log.warning("partitions.added", topic=self._topic, partitions=producers.partitions)

    async def _replace(self) -> None:
        fresh = self._make()
        try:
            await asyncio.to_thread(fresh.reach)
            if self._producers is not None:
                if await self._comes_back():
                    fresh.shut_down()
                    return
                self._give_up_on(self._producers)
            await asyncio.to_thread(fresh.open_missing)
        except BaseException as error:
            fresh.shut_down()
            if isinstance(error, BrokerUnavailable):
                return
            raise
        self._is_asking, self._unanswered_since = False, None
        self._producers = fresh
        log.info("broker.reopened", topic=self._topic)

    async def _comes_back(self) -> bool:
        for _ in range(1 + round(self._patience_s / LOOK_EVERY_S)):
            if self.is_connected():
                return True
            await asyncio.sleep(LOOK_EVERY_S)
        return False

    def _give_up_on(self, producers: Producers) -> None:
        log.warning("broker.reopening", topic=self._topic, away_s=REOPEN_AFTER_S)
        self._producers = None
        producers.shut_down()
        self._give_up_pending()

    def _give_up_pending(self) -> None:
        for number in list(self._pending):
            if (found := self._pending.pop(number, None)) is not None:
                found[1](PublishUnconfirmed())

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        producers, self._producers = self._producers, None
        try:
            if producers is not None:
                await asyncio.to_thread(producers.close)
        finally:
            self._give_up_pending()
