"""What a worker asks of a store of deliveries, and how it goes on while the store is down."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from dispatch.delivery import Delivery
from dispatch.once.store import DeliveryStore, Doubt, Mark, Record, StoreDown, unix_ms

log = structlog.get_logger()

#: Seconds for which a store that failed is not asked: to wait for it again and again would make
#: every attempt slow.
LEFT_ALONE_S: Final = 1.0
#: Seconds after an event of a user in which its next one can't have been elsewhere meanwhile.
SEEN_S: Final = 1.0
#: Records that could not be written and are kept to be tried again; the oldest leave beyond it.
MAX_UNSAVED: Final = 10_000
#: Of these, what goes along with a record that is written.
_SAVED_ALONG: Final = 100


@dataclass(slots=True)
class OnceCounts:
    """Since the start."""

    #: Channels that were spared an event they have already, or have refused.
    skipped: int = 0
    #: Attempts at what another worker had begun: it may have delivered, nobody knows.
    uncertain: int = 0
    #: Events attempted although the store could not be asked.
    unasked: int = 0
    #: Deliveries that the store could not be told of when they were made.
    unrecorded: int = 0


class DeliveryBook:
    """`refuses` makes `begin` raise while the store is down; else this worker's own memory serves.

    An outage is logged once, and its end.
    """

    def __init__(
        self,
        store: DeliveryStore,
        counts: OnceCounts,
        *,
        refuses: bool,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._store = store
        self._counts = counts
        self._refuses = refuses
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._down: StoreDown | None = None
        self._down_until = 0.0
        self._unsaved: dict[bytes, Record] = {}
        # In the order in which they were seen. The oldest is looked for with each event, which
        # takes a plain dict long once many have left it.
        self._seen: OrderedDict[str, float] = OrderedDict()

    def record(
        self, mark: Mark, position: str = "", status: int | None = None, reason: str = ""
    ) -> Record:
        """One of this worker and of now."""
        return Record(mark, self._store.who, self._now_ms(), position, status, reason)

    async def open(self) -> None:
        try:
            await self._store.open()
        except StoreDown as error:
            self._failed(error)

    async def begin(self, names: Sequence[bytes], delivery: Delivery) -> list[Record | None]:
        """What is known of each; raises `StoreDown` if that is refused to go on without."""
        own = [self._unsaved.get(name) for name in names]
        try:
            found = await self._look_up(names, delivery)
        except StoreDown:
            if self._refuses:
                raise
            self._counts.unasked += 1
            return own
        self._counts.uncertain += sum(self._is_uncertain(record) for record in found)
        return [mine or theirs for mine, theirs in zip(own, found, strict=True)]

    async def _look_up(self, names: Sequence[bytes], delivery: Delivery) -> list[Record | None]:
        user, now = delivery.message.key, self._loop.time()
        self._require_up(now)
        try:
            found = await self._store.begin(names, self._doubt(delivery, now))
        except StoreDown as error:
            self._failed(error)
            raise
        self._succeeded()
        # Not before: an answer that never came has brought nothing up to date.
        self._seen.pop(user, None)
        self._seen[user] = now
        return found

    def _doubt(self, delivery: Delivery, now: float) -> Doubt:
        while self._seen and next(iter(self._seen.values())) < now - SEEN_S:
            del self._seen[next(iter(self._seen))]
        if delivery.message.redelivery_count:
            return Doubt.REDELIVERED
        return Doubt.NONE if delivery.message.key in self._seen else Doubt.UNSEEN

    def _is_uncertain(self, record: Record | None) -> bool:
        return record is not None and record.mark is Mark.STARTED and record.who != self._store.who

    async def finish(self, name: bytes, record: Record | None) -> None:
        """Return when it is in the store, or kept here until it can be; never raises."""
        along = dict(islice(self._unsaved.items(), _SAVED_ALONG))
        if await self._save({**along, name: record}):
            for saved in along:
                self._unsaved.pop(saved, None)
        elif record is not None:
            self._counts.unrecorded += record.mark is Mark.DELIVERED
            self._unsaved[name] = record
            if len(self._unsaved) > MAX_UNSAVED:
                del self._unsaved[next(iter(self._unsaved))]

    async def keep(self, name: bytes, record: Record) -> None:
        """Make a record that is met again last: other channels may take longer than it lives."""
        if self._now_ms() - record.at_ms > self._store.ttl_s * 1000 / 2:
            status, reason = record.status, record.reason
            await self.finish(name, self.record(record.mark, record.position, status, reason))

    async def _save(self, records: Mapping[bytes, Record | None]) -> bool:
        try:
            self._require_up(self._loop.time())
            await self._store.finish(records)
        except StoreDown as error:
            if error is not self._down:
                self._failed(error)
            return False
        self._succeeded()
        return True

    def _require_up(self, now: float) -> None:
        if self._down is not None and now < self._down_until:
            raise self._down

    def _failed(self, error: StoreDown) -> None:
        if self._down is None:
            goes_on = "nothing is delivered" if self._refuses else "events may be delivered twice"
            log.warning("once.store_down", error=str(error), consequence=goes_on)
        self._down = error
        self._down_until = self._loop.time() + LEFT_ALONE_S

    def _succeeded(self) -> None:
        if self._down is not None:
            self._down = None
            log.info("once.store_back")

    async def close(self) -> None:
        """Write what could not be written, if that is possible now."""
        if self._unsaved:
            await self._save(dict(self._unsaved))
        await self._store.close()
