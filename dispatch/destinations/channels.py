"""Several channels of one destination, each of which gets an event once.

Also the one channel of a destination that has a store of deliveries; its name is ''.

A channel's delivery is in the store before the event counts as delivered anywhere else. So an
event comes twice only where a worker ended between the two, or where the store failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Final, Literal

import structlog

from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.once.book import DeliveryBook, OnceCounts
from dispatch.once.combining import combined
from dispatch.once.store import DeliveryStore, Mark, Names, Record, StoreDown
from dispatch.outcome import (
    Delivered,
    Forbidden,
    Malformed,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)
from keylane.errors import ContractError

log = structlog.get_logger()

#: Of a refusal's reason, what is remembered.
REASON_CHARACTERS: Final = 500

_DELIVERED: Final = Delivered()
_MARKS: Final[dict[type[Outcome], Mark]] = {
    Delivered: Mark.DELIVERED,
    Refused: Mark.REFUSED,
    Malformed: Mark.MALFORMED,
    Forbidden: Mark.FORBIDDEN,
}


class OnceDestination:
    """Attempts all channels at once, but for those that have the event or have refused it.

    `on_failure` says what happens while the store can't be asked: `deliver` goes on with what this
    worker knows itself, `wait` delivers nothing. The store and the channels are closed with it.
    """

    def __init__(
        self,
        destination: str,
        channels: Mapping[str, Destination | ImmediateDestination],
        store: DeliveryStore,
        *,
        topic: str,
        on_failure: Literal["deliver", "wait"] = "deliver",
        counts: OnceCounts | None = None,
    ) -> None:
        self.counts = counts or OnceCounts()
        self._names = Names(topic, destination)
        self._channels = {name: _awaited(channel) for name, channel in channels.items()}
        self._book = DeliveryBook(store, self.counts, refuses=on_failure == "wait")
        self._log = log.bind(destination=destination)

    async def open(self) -> None:
        """Read what the store has to read first; without it the first attempt does.

        A store that does not answer is told of, and asked again with the first attempt.
        """
        await self._book.open()

    async def attempt(self, delivery: Delivery) -> Outcome:
        user, event_id = delivery.message.key, delivery.remembered_id
        names = [self._names.name(channel, user, event_id) for channel in self._channels]
        try:
            known = await self._book.begin(names, delivery)
        except StoreDown as error:
            return Unavailable(f"the store of deliveries does not answer: {error}", is_down=True)
        outcomes = await _gathered(
            [
                self._settled(channel, name, record, delivery)
                for channel, name, record in zip(self._channels, names, known, strict=True)
            ]
        )
        return combined(dict(zip(self._channels, outcomes, strict=True)))

    async def _settled(
        self, channel: str, name: bytes, record: Record | None, delivery: Delivery
    ) -> Outcome:
        """What the channel said before, else what it says now, once that is remembered."""
        if record is not None and (said := _said(record, delivery)) is not None:
            self.counts.skipped += 1
            await self._book.keep(name, record)
            return said
        outcome = await self._attempt(channel, delivery)
        mark = _MARKS.get(type(outcome))
        await self._book.finish(
            name, None if mark is None else self._record(mark, outcome, delivery)
        )
        return outcome

    def _record(self, mark: Mark, outcome: Outcome, delivery: Delivery) -> Record:
        if isinstance(outcome, Delivered):
            return self._book.record(mark)
        reason = outcome.reason[:REASON_CHARACTERS].encode(errors="replace").decode()
        return self._book.record(mark, delivery.place, outcome.status, reason)

    async def _attempt(self, channel: str, delivery: Delivery) -> Outcome:
        # The store was waited for.
        if not delivery.may_begin():
            return Withdrawn()
        try:
            return await self._channels[channel].attempt(delivery)
        except ContractError as error:
            return Malformed(str(error))
        except Exception as error:
            if channel == "":
                raise
            # A bug in one channel must not keep the event from the others.
            self._log.exception("attempt.broke", channel=channel)
            return Unavailable(f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._book.close()


def _said(record: Record, delivery: Delivery) -> Outcome | None:
    """What the channel has said for good; `None` if it is to be asked."""
    if record.mark is Mark.DELIVERED:
        return _DELIVERED
    if record.position != delivery.place:
        return None
    match record.mark:
        case Mark.REFUSED:
            return Refused(record.reason, record.status)
        case Mark.MALFORMED:
            return Malformed(record.reason)
        case Mark.FORBIDDEN:
            return Forbidden(record.reason)
        case _:
            return None


async def _gathered(attempts: Sequence[Coroutine[None, None, Outcome]]) -> Sequence[Outcome]:
    if len(attempts) == 1:
        return [await attempts[0]]
    return await asyncio.gather(*attempts)


class _Awaited:
    """A destination that never waits, where one that is waited for is needed."""

    def __init__(self, inner: ImmediateDestination) -> None:
        self._inner = inner

    async def attempt(self, delivery: Delivery) -> Outcome:
        (outcome,) = self._inner.attempt_all([delivery])
        return outcome

    async def close(self) -> None:
        await self._inner.close()


def _awaited(destination: Destination | ImmediateDestination) -> Destination:
    return _Awaited(destination) if isinstance(destination, ImmediateDestination) else destination
