"""`pulsar:` remembers in a topic, which every worker of the destination has read into its memory.

Only what an attempt came to is written, not that it began: that would cost as much as an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from typing_extensions import override

from dispatch.once.remembered import MAX_NAMES, Remembered
from dispatch.once.store import (
    DeliveryStore,
    Doubt,
    Mark,
    Record,
    StoreDown,
    decode,
    encode,
    this_process,
)
from keylane.broker import Broker, Table
from keylane.errors import BrokerError

#: What says that a channel needs no further attempt.
_FINAL: Final = frozenset(Mark) - {Mark.STARTED}


class TopicStore(DeliveryStore):
    """Opens the table with the first question; whoever opened the broker closes that."""

    def __init__(
        self, broker: Broker, topic: str, *, ttl_s: float, max_names: int = MAX_NAMES
    ) -> None:
        self._broker = broker
        self._topic = topic
        self.ttl_s = ttl_s
        self.who = this_process()
        self._remembered = Remembered(ttl_s, max_names=max_names)
        self._opening: asyncio.Task[Table] | None = None

    @property
    def size(self) -> int:
        """How many records are in memory."""
        return len(self._remembered)

    @override
    async def open(self) -> None:
        await self._table()

    async def _table(self) -> Table:
        if self._opening is None:
            self._opening = asyncio.create_task(self._broker.table(self._topic, self._hear))
        opening = self._opening
        try:
            # Who gives up waiting must not end it for the others.
            return await asyncio.shield(opening)
        except BrokerError as error:
            if self._opening is opening:
                self._opening = None
            raise StoreDown(f"the topic {self._topic}: {error}") from error

    def _hear(self, key: str, value: bytes) -> None:
        try:
            name = bytes.fromhex(key)
        except ValueError:
            return
        if not value:
            self._remembered.forget(name)
        elif (record := decode(value)) is not None:
            self._remembered.put(name, record)

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        table = await self._table()
        found = self.known(names)
        if doubt is not Doubt.NONE and not all(found):
            await self._catch_up(table)
            found = self.known(names)
        return found

    def known(self, names: Sequence[bytes]) -> list[Record | None]:
        """What this worker has heard of."""
        return [self._remembered.get(name) for name in names]

    async def catch_up(self) -> None:
        """Return when all is known that was finished before this call; raises `StoreDown`."""
        await self._catch_up(await self._table())

    async def _catch_up(self, table: Table) -> None:
        try:
            await table.catch_up()
        except BrokerError as error:
            raise StoreDown(f"the topic {self._topic}: {error}") from error

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        final = {n: r for n, r in records.items() if r is not None and r.mark in _FINAL}
        if not final:
            return
        table = await self._table()
        puts = (table.put(name.hex(), encode(record)) for name, record in final.items())
        errors = [e for e in await asyncio.gather(*puts, return_exceptions=True) if e is not None]
        for error in errors:
            if not isinstance(error, BrokerError):
                raise error
            raise StoreDown(f"the topic {self._topic}: {error}") from error
        for name, record in final.items():
            self._remembered.put(name, record)

    @override
    async def close(self) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            return
        if not opening.done():
            opening.cancel()
        (table,) = await asyncio.gather(opening, return_exceptions=True)
        if not isinstance(table, BaseException):
            await table.close()
