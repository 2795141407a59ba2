"""A table on Pulsar: a topic without partitions, a publisher, and a thread that reads.

Whether everything was heard is asked by a mark, put like any value: once something at its place or
behind it was heard, so was all before it. The marks of all have one key, so that of a compacted
topic's marks the last one stays, which is behind the others.

The thread is as that of a consumer (keylane/pulsarconsumer.py). The client's reader goes on by
itself after a lost connection; one that misses a mark that was confirmed is replaced by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import structlog

from keylane.broker import OutgoingMessage, Position, Publisher, Receipt
from keylane.errors import BrokerError, BrokerUnavailable, PublishUnconfirmed
from keylane.pulsarreader import TableReader

log = structlog.get_logger()

#: The key of the marks; nobody else's.
MARK_KEY: Final = "keylane:mark"
#: Seconds for a receipt, and for a mark to be heard after its receipt.
PUT_TIMEOUT_S: Final = 3.0
HEAR_TIMEOUT_S: Final = 3.0
#: Seconds without anything new after which reading what is kept has failed.
READ_SILENCE_S: Final = 10.0
#: Seconds between two marks: what is asked meanwhile shares the next one.
MARK_INTERVAL_S: Final = 0.01
_MAX_BATCH: Final = 1_000
_READ_TIMEOUT_MS: Final = 200
_RETRY_S: Final = 1.0

#: Opens a reader behind a position, or from the beginning. Blocks; raises `BrokerUnavailable`.
OpenReader: TypeAlias = Callable[[Position | None], TableReader]
Batch: TypeAlias = Sequence[tuple[str, bytes, Position]]


class PulsarTable:
    """`publisher` is closed with the table."""

    def __init__(
        self, publisher: Publisher, open_reader: OpenReader, hear: Callable[[str, bytes], None]
    ) -> None:
        self._publisher = publisher
        self._open_reader = open_reader
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._heard: Position | None = None
        self._waiting: list[tuple[Position, asyncio.Future[None]]] = []
        self._catching_up: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._listening: _Listening | None = None
        self._marked_at = 0.0
        self._is_closed = False

    async def open(self) -> None:
        """Return when everything that is kept has been heard; raises `BrokerUnavailable`."""
        await self._listen()
        await self._mark(READ_SILENCE_S)

    async def _listen(self) -> None:
        reader = await asyncio.to_thread(self._open_reader, self._heard)
        self._listening = _Listening(reader, self._loop, self._take)

    def _take(self, batch: Batch) -> None:
        for key, value, position in batch:
            self._heard = position
            if key != MARK_KEY:
                self._hear(key, value)
        if self._heard is not None:
            heard = self._heard
            for position, future in self._waiting:
                if position <= heard and not future.done():
                    future.set_result(None)
            self._waiting = [w for w in self._waiting if not w[1].done()]

    async def put(self, key: str, value: bytes) -> None:
        await self._send(key, value)

    async def _send(self, key: str, value: bytes) -> Position:
        receipt: asyncio.Future[Receipt] = self._loop.create_future()

        def done(came: Receipt) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                self._loop.call_soon_threadsafe(_set_unless_done, receipt, came)

        self._publisher.send(OutgoingMessage(key, value), done)
        try:
            came = await asyncio.wait_for(receipt, PUT_TIMEOUT_S)
        except TimeoutError as error:
            raise PublishUnconfirmed from error
        if isinstance(came, BrokerError):
            raise came
        return came

    async def catch_up(self) -> None:
        if self._is_closed:
            raise BrokerUnavailable("The table is closed.")
        # One that is under way may have left its mark before something was confirmed.
        if self._next is None:
            self._next = asyncio.create_task(self._catch_up_next(self._catching_up))
            self._next.add_done_callback(_look_at_error)
        await asyncio.shield(self._next)

    async def _catch_up_next(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.sleep(self._marked_at + MARK_INTERVAL_S - self._loop.time())
        self._marked_at = self._loop.time()
        self._catching_up, self._next = self._next, None
        if self._listening is None:
            await self._listen()
        await self._mark(HEAR_TIMEOUT_S)

    async def _mark(self, patience_s: float) -> None:
        try:
            position = await self._send(MARK_KEY, b"1")
        except BrokerError as error:
            raise BrokerUnavailable(f"The table could not be caught up with: {error}") from error
        heard: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((position, heard))
        # It may have been heard before its receipt.
        self._take(())
        while not heard.done():
            before = self._heard
            await asyncio.wait([heard], timeout=patience_s)
            if not heard.done() and self._heard == before:
                heard.cancel()
                await self._stop_listening()
                raise BrokerUnavailable(
                    f"The table's reader heard nothing for {patience_s:g} s; it is opened anew."
                )

    async def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.close()

    async def close(self) -> None:
        self._is_closed = True
        tasks = [task for task in (self._catching_up, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop_listening()
        await self._publisher.close()


class _Listening:
    """A reader, and the thread that hands what it gets to the loop."""

    def __init__(
        self, reader: TableReader, loop: asyncio.AbstractEventLoop, take: Callable[[Batch], None]
    ) -> None:
        self._reader = reader
        self._loop = loop
        self._take = take
        self._closing = threading.Event()
        # One batch is with the loop and at most one more in the thread's hands.
        self._may_hand_over = threading.Semaphore(1)
        self._thread = threading.Thread(target=self._read, name="read-table", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                batch = self._reader.read(_MAX_BATCH, _READ_TIMEOUT_MS)
            except BrokerUnavailable as error:
                if not self._closing.wait(_RETRY_S):
                    log.warning("table.read_failed", error=str(error))
                continue
            if batch:
                self._may_hand_over.acquire()
                with contextlib.suppress(RuntimeError):  # the loop may be gone
                    self._loop.call_soon_threadsafe(self._hand_over, batch)

    def _hand_over(self, batch: Batch) -> None:
        try:
            if not self._closing.is_set():
                self._take(batch)
        finally:
            self._may_hand_over.release()

    async def close(self) -> None:
        self._closing.set()
        self._may_hand_over.release()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._reader.close)


def _set_unless_done(receipt: asyncio.Future[Receipt], came: Receipt) -> None:
    if not receipt.done():
        receipt.set_result(came)


def _look_at_error(task: asyncio.Task[None]) -> None:
    # Who asked may have given up, and asyncio complains of errors that nobody saw.
    if not task.cancelled():
        task.exception()
