"""Keeps the store and the requests of this process in step: claims, outcomes, extensions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from ingest.idempotency.course import Course
from ingest.idempotency.records import (
    KeyNames,
    KeyRecord,
    Values,
    Writes,
    claim_ids,
    claim_key,
    extend,
    ids_outcome,
    key_outcome,
    write_record,
)
from ingest.idempotency.store import Store, StoreDown, change
from ingest.refusals import StoreUnavailable
from ingest.throttle import Throttle

log = structlog.get_logger()

#: Seconds for which a store that failed is not asked, where requests go on without it.
_LEFT_ALONE_S: Final = 1.0
_QUIET_S: Final = 1.0


class Ledger:
    def __init__(self, store: Store, *, refuses: bool) -> None:
        """`refuses` makes requests fail while the store does; else they go on without it."""
        self.on_failure: Callable[[], None] = lambda: None
        self._store = store
        self._refuses = refuses
        self._process = os.urandom(8)
        self._count = 0
        self._owners: set[bytes] = set()
        self._down_until = 0.0
        self._throttle = Throttle(_QUIET_S)

    def open(self, names: KeyNames | None = None, record: KeyRecord | None = None) -> Course:
        """A course with a token of its own."""
        self._count += 1
        course = Course(self._process + self._count.to_bytes(8), names, record)
        self._owners.add(course.owner)
        return course

    def drop(self, course: Course) -> None:
        """Take what it still has leased for nobody's."""
        self._owners.discard(course.owner)

    def _has_ended(self, owner: bytes) -> bool:
        # A lease of this process that nothing stands behind: the store's answer to it was lost.
        return owner.startswith(self._process) and owner not in self._owners

    async def claim_key(self, course: Course, names: KeyNames, new: KeyRecord) -> bool:
        """Reserve the key, unless its record holds an answer.

        False if the request has to go on without. Raises `KeyReused`, `StillRunning` or
        `StoreUnavailable`.
        """

        def decide(values: Values) -> Writes:
            course.is_new = values[0] is None
            course.record, writes = claim_key(values, new, course.owner, self._has_ended)
            return writes

        return await self._ask(decide, (names.record, names.lease))

    async def claim_ids(self, course: Course, names: Sequence[bytes]) -> Sequence[bool]:
        """Reserve the ids that are not stored, and tell which are; nothing if the store is down.

        Raises `StillRunning` or `StoreUnavailable`.
        """
        are_stored: list[bool] = []

        def decide(values: Values) -> Writes:
            are_stored[:], writes = claim_ids(values, course.owner, self._has_ended)
            return writes

        return are_stored if await self._ask(decide, names) else []

    async def _ask(self, decide: Callable[[Values], Writes], names: Sequence[bytes]) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._refuses and now < self._down_until:
            return False  # to wait for it to fail again would make every request slow
        try:
            await change(self._store, names, [None] * len(names), decide)
        except StoreDown as error:
            self._warn(error)
            self._down_until = now + _LEFT_ALONE_S
            if self._refuses:
                raise StoreUnavailable from error
            return False
        return True

    async def save(self, course: Course) -> bool:
        """Record what is known of the request now; whether that is done."""
        is_over = course.is_settled
        ids = course.known_ids()
        names = [course.held[index] for index in ids]
        assumed: list[bytes | None] = [course.owner] * len(names)
        outcome: KeyRecord | None = None
        if course.names and course.record:
            outcome = course.outcome()
            names[:0] = (course.names.record, course.names.lease)
            assumed[:0] = (write_record(course.record).value, course.owner)

        def decide(values: Values) -> Writes:
            if not course.names:
                return ids_outcome(values, [*ids.values()], course.owner)
            of_key = key_outcome(values[:2], outcome, course.owner, is_over=is_over)
            return of_key + ids_outcome(values[2:], [*ids.values()], course.owner)

        try:
            await change(self._store, names, assumed, decide)
        except StoreDown as error:
            self._warn(error)
            return False
        course.record = outcome or course.record
        for index in ids:
            del course.held[index]
        return True

    async def extend(self, course: Course) -> bool:
        """Make the request's leases last; whether the store answered."""
        names = [*course.held.values()]
        if course.names:
            names.append(course.names.lease)
        owner = course.owner
        try:
            await change(self._store, names, [owner] * len(names), partial(extend, owner=owner))
        except StoreDown as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: StoreDown) -> None:
        self.on_failure()
        suppressed = self._throttle.suppressed("store")
        if suppressed is not None:
            log.warning("idempotency.store_failed", error=str(error), suppressed=suppressed)

    async def close(self) -> None:
        await self._store.close()
