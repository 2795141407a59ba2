"""From events to receipts: all of a request are sent in order, and all must be confirmed.

Receipts come on threads of the broker's client. Each is only noted there; the last one of a
request wakes the event loop, once. What is in flight is bounded by events and by bytes, and a place
is given back when the receipts have come, not when the sender was told that they had not: what the
broker's client still holds is still held.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from ingest.refusals import EventFate, Fate, NotConfirmed, RefusedByBroker, TooManyInFlight
from keylane.broker import Publisher, Receipt
from keylane.errors import BrokerUnavailable, EventTooLarge
from keylane.event import Event, to_message

log = structlog.get_logger()

#: Bytes of payloads in flight: what a stalled broker may cost this process in memory.
MAX_IN_FLIGHT_BYTES: Final = 256 * 1024 * 1024
#: After this long without its receipts a request's place is given back all the same: the broker's
#: client gives up on its own long before, so only a lost callback gets here.
FORGET_AFTER_S: Final = 300.0
#: Events that are sent before others get their turn on the event loop (some 10 ms of work).
SLICE: Final = 250

_NOT_SENT: Final = BrokerUnavailable("An event before it failed; it was not sent.")

#: Told the receipts of all events of a request, `None` where none came, in their order.
OnSettled = Callable[[Sequence[Receipt | None]], None]


class Intake:
    """Sends requests' events to the broker and waits for their receipts."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        max_in_flight: int,
        send_deadline_s: float,
        max_in_flight_bytes: int = MAX_IN_FLIGHT_BYTES,
        forget_after_s: float = FORGET_AFTER_S,
    ) -> None:
        self.events_in_flight = 0
        self.bytes_in_flight = 0
        self.send_deadline_s = send_deadline_s
        self.forget_after_s = forget_after_s
        #: Told how many events were confirmed after their request had been answered.
        self.on_late_receipts: Callable[[int], None] = lambda _count: None
        self._publisher = publisher
        self._max_in_flight = max_in_flight
        self._max_in_flight_bytes = max_in_flight_bytes

    def is_connected(self) -> bool:
        return self._publisher.is_connected()

    async def accept(self, events: Sequence[Event], on_settled: OnSettled | None = None) -> None:
        """Send the events in order; returns once all are confirmed.

        Raises `TooManyInFlight` or `BrokerUnavailable` if nothing was sent, else `NotConfirmed` or
        `RefusedByBroker`. After a failure nothing more of the request is sent, so that repeating an
        event can't put it behind later ones of its user.

        `on_settled` is called once, on the event loop, when nothing of the request is under way any
        more: before this returns or raises, or later if receipts are missing then. It is not called
        if nothing was tried.
        """
        if not self._publisher.is_connected():
            raise BrokerUnavailable
        payload_bytes = sum([len(event.payload) for event in events])
        self._check_room(len(events), payload_bytes)
        batch = _Batch(self, len(events), payload_bytes, on_settled)
        await self._send(events, batch)
        await batch.answerable
        if batch.has_failed or batch.missing:
            raise _failure(events, tuple(batch.receipts))

    def _check_room(self, count: int, payload_bytes: int) -> None:
        # What alone is over a bound passes when nothing else is in flight.
        if self.events_in_flight and (
            self.events_in_flight + count > self._max_in_flight
            or self.bytes_in_flight + payload_bytes > self._max_in_flight_bytes
        ):
            raise TooManyInFlight

    async def _send(self, events: Sequence[Event], batch: _Batch) -> None:
        sent = 0
        try:
            for event in events:
                if sent and sent % SLICE == 0:
                    await asyncio.sleep(0)
                    if batch.answerable.done():
                        break
                if batch.has_failed:
                    break
                self._publisher.send(to_message(event), partial(batch.note, sent))
                sent += 1
        finally:
            for index in range(sent, len(events)):
                batch.note(index, _NOT_SENT)


class _Batch:
    """The place that one request has in flight, and its receipts as they come."""

    __slots__ = (
        "_confirmed_in_time",
        "_count",
        "_intake",
        "_is_placed",
        "_lock",
        "_loop",
        "_on_settled",
        "_payload_bytes",
        "_timer",
        "answerable",
        "has_failed",
        "missing",
        "receipts",
    )

    def __init__(
        self, intake: Intake, count: int, payload_bytes: int, on_settled: OnSettled | None
    ) -> None:
        self.receipts: list[Receipt | None] = [None] * count
        self.missing = count
        self.has_failed = False
        self._count = count
        self._payload_bytes = payload_bytes
        self._intake = intake
        self._on_settled = on_settled
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        #: Done when the sender can be answered: all receipts are here, or the deadline is.
        self.answerable: asyncio.Future[None] = self._loop.create_future()
        self._confirmed_in_time = 0
        intake.events_in_flight += count
        intake.bytes_in_flight += payload_bytes
        self._is_placed = True
        self._timer = self._loop.call_later(intake.send_deadline_s, self._expire)

    def note(self, index: int, receipt: Receipt) -> None:
        """Take the receipt of one event, on any thread, exactly once an event."""
        self.receipts[index] = receipt
        if not isinstance(receipt, tuple):
            self.has_failed = True
        with self._lock:
            self.missing -= 1
            is_last = not self.missing
        if is_last:
            try:
                self._loop.call_soon_threadsafe(self._complete)
            except RuntimeError:
                # The loop is closed: the process is ending and nobody waits any more. To raise
                # into the broker's client would abort it.
                return

    def _complete(self) -> None:
        self._timer.cancel()
        self._give_back()
        self._settle()
        if not self.answerable.done():
            self.answerable.set_result(None)
        elif late := self._confirmed() - self._confirmed_in_time:
            self._intake.on_late_receipts(late)

    def _expire(self) -> None:
        self._confirmed_in_time = self._confirmed()
        self._timer = self._loop.call_later(self._intake.forget_after_s, self._forget)
        if not self.answerable.done():
            self.answerable.set_result(None)

    def _forget(self) -> None:
        log.error("receipts.lost", missing=self.missing, after_s=self._intake.forget_after_s)
        self._give_back()
        self._settle()

    def _settle(self) -> None:
        on_settled, self._on_settled = self._on_settled, None
        if on_settled:
            on_settled(tuple(self.receipts))

    def _give_back(self) -> None:
        if self._is_placed:
            self._is_placed = False
            self._intake.events_in_flight -= self._count
            self._intake.bytes_in_flight -= self._payload_bytes

    def _confirmed(self) -> int:
        return sum(isinstance(receipt, tuple) for receipt in self.receipts)


def _failure(
    events: Sequence[Event], receipts: Sequence[Receipt | None]
) -> BrokerUnavailable | NotConfirmed:
    fates = [fate_of(receipt) for receipt in receipts]
    if all(fate is Fate.NOT_SENT for fate in fates):
        return BrokerUnavailable()
    known = [
        EventFate(index, event.id, event.user, fate)
        for index, (event, fate) in enumerate(zip(events, fates, strict=True))
    ]
    return RefusedByBroker(known) if Fate.TOO_LARGE in fates else NotConfirmed(known)


def fate_of(receipt: Receipt | None) -> Fate:
    """What a receipt says of its event; none at all leaves it open."""
    match receipt:
        case tuple():
            return Fate.CONFIRMED
        case EventTooLarge():
            return Fate.TOO_LARGE
        case BrokerUnavailable():
            return Fate.NOT_SENT
        case _:
            return Fate.UNKNOWN
