"""A consumer on Pulsar: one partition, and the thread that receives from it.

The thread blocks for the first message and then drains, and wakes the event loop once a batch:
about ten times the rate of a listener or of the client's own asyncio.

Negative acknowledgements come only in bursts (keylane/broker.py says how far apart): each call
re-arms the client's timer, so that calls closer together postpone every redelivery for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from keylane.broker import Deliver, Position, Received
from keylane.errors import BrokerUnavailable
from keylane.pulsarmessage import PulsarMessage
from keylane.pulsarreceiver import Receiver

log = structlog.get_logger()

#: Messages handed to the event loop at once: long enough to spare wake-ups, short enough (some
#: 5 ms of work, 10 where each needs a lane) that timers and attempts of others are served between.
MAX_BATCH: Final = 1_000
#: How long a receive blocks before it looks whether it should stop.
RECEIVE_TIMEOUT_MS: Final = 200
#: How often a paused consumer's thread looks whether its connection is lost.
PAUSE_CHECK_S: Final = 0.02
#: How long a thread waits before it receives again after the client refused.
RECEIVE_RETRY_S: Final = 1.0


class PulsarConsumer:
    """Hands what a receiver gets to the event loop."""

    def __init__(self, receiver: Receiver, partition: int, deliver: Deliver) -> None:
        self._receiver = receiver
        self._partition = partition
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._closing = threading.Event()
        self._is_open = threading.Event()
        self._is_open.set()
        # One batch is with the loop and at most one more in the thread's hands.
        self._may_hand_over = threading.Semaphore(1)
        self._waiting: tuple[list[PulsarMessage], int] | None = None
        # Counts the connections that were lost: a batch from before a loss may not be ours now.
        self._losses = 0
        self._was_connected = True
        self._thread = threading.Thread(
            target=self._receive, name=f"receive-{partition}", daemon=True
        )
        self._thread.start()

    @property
    def partition(self) -> int:
        return self._partition

    def is_connected(self) -> bool:
        is_connected = not self._is_closed and self._receiver.is_connected()
        if self._was_connected and not is_connected:
            self._losses += 1
        self._was_connected = is_connected
        return is_connected

    def _receive(self) -> None:
        while not self._is_closed:
            if not self._is_open.wait(PAUSE_CHECK_S):
                self._receiver.drop_stale()
                continue
            try:
                batch = self._receiver.receive(MAX_BATCH, RECEIVE_TIMEOUT_MS)
            except BrokerUnavailable as error:
                if not self._closing.wait(RECEIVE_RETRY_S):
                    log.warning("receive.failed", partition=self._partition, error=str(error))
                continue
            losses = self._losses
            # What was received without a connection is sent again after it is back.
            if batch and self._receiver.is_connected():
                self._may_hand_over.acquire()
                self._loop.call_soon_threadsafe(self._hand_over, batch, losses)

    def _hand_over(self, batch: list[PulsarMessage], losses: int) -> None:
        if not self._is_open.is_set():
            self._waiting = (batch, losses)
            return
        try:
            if self.is_connected() and losses == self._losses:
                self._deliver(self._partition, batch)
        finally:
            self._may_hand_over.release()

    def pause(self) -> None:
        self._is_open.clear()

    def resume(self) -> None:
        self._is_open.set()
        if self._waiting is not None:
            (batch, losses), self._waiting = self._waiting, None
            # Not from within the caller's step: it may be in the middle of a batch itself.
            self._loop.call_soon(self._hand_over, batch, losses)

    def acknowledge(self, messages: Iterable[Received]) -> None:
        try:
            self._receiver.acknowledge(messages)
        except BrokerUnavailable as error:
            # The broker sends them again, and they are acknowledged then.
            log.warning("acknowledge.failed", partition=self._partition, error=str(error))

    def negative_acknowledge(self, positions: Sequence[Position]) -> None:
        try:
            self._receiver.negative_acknowledge(positions)
        except BrokerUnavailable as error:
            # Without a connection all of it is sent again after the reconnect anyway.
            log.warning("redelivery.failed", partition=self._partition, error=str(error))

    async def confirm(self) -> None:
        losses = self._losses
        answer: asyncio.Future[str] = self._loop.create_future()

        def answered(complaint: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                self._loop.call_soon_threadsafe(_set_unless_done, answer, complaint)

        self._receiver.ask(answered)
        complaint = await answer
        if complaint or not self.is_connected() or losses != self._losses:
            raise BrokerUnavailable(f"The broker did not answer ({complaint or 'disconnected'}).")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._closing.set()
        self._is_open.set()
        self._may_hand_over.release()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._receiver.close)


def _set_unless_done(answer: asyncio.Future[str], complaint: str) -> None:
    if not answer.done():
        answer.set_result(complaint)
