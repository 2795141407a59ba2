"""A process that takes requests, as the tests of repeats see it; several may share a store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from typing_extensions import override

from ingest.accept import Intake
from ingest.idempotency import Acceptance, Attempt, Repeats, Store, StoreDown
from ingest.idempotency.store import Write
from keylane.event import Event
from tests.fakes import FakePublisher

NOW_MS = 1_800_000_000_000


class Line(Store):
    """The way to a store, which can be cut; it counts what passes."""

    def __init__(self, store: Store) -> None:
        self.is_cut = False
        #: Cut once so many more exchanges have passed.
        self.cut_after: int | None = None
        self.exchanges = 0
        #: Exchanges wait for it.
        self.is_free = asyncio.Event()
        self.is_free.set()
        self._store = store

    @override
    async def exchange(
        self,
        names: Sequence[bytes],
        expected: Sequence[bytes | None],
        writes: Sequence[Write | None],
    ) -> list[bytes | None] | None:
        if self.cut_after == 0:
            self.is_cut = True
        if self.is_cut:
            raise StoreDown
        await self.is_free.wait()
        if self.cut_after:
            self.cut_after -= 1
        self.exchanges += 1
        return await self._store.exchange(names, expected, writes)

    @override
    async def close(self) -> None:
        return None


class Desk:
    """Events are written `user` or `user:id`; the payload says which event it is."""

    def __init__(
        self,
        store: Store | None,
        *,
        publisher: FakePublisher | None = None,
        reservation_s: float = 30.0,
        deadline_s: float = 5.0,
        **options: Any,
    ) -> None:
        self.publisher = publisher or FakePublisher()
        self._line = None if store is None else Line(store)
        self.repeats = Repeats(self._line, reservation_s=reservation_s, **options)
        self.intake = Intake(
            self.publisher, max_in_flight=1_000, send_deadline_s=deadline_s, forget_after_s=1e6
        )

    @property
    def line(self) -> Line:
        assert self._line is not None
        return self._line

    async def begin(self, events: Sequence[str], key: str | None, now_ms: int = NOW_MS) -> Attempt:
        if key is None:
            return self.repeats.plain("topic", now_ms)
        fingerprint = hashlib.sha256(repr(tuple(events)).encode()).digest()
        return await self.repeats.begin("topic", key.encode(), fingerprint, now_ms)

    async def post(
        self, *events: str, key: str | None = None, now_ms: int = NOW_MS, number: int = 0
    ) -> Acceptance:
        """What the endpoint does with a request; a replay counts as an acceptance.

        `number` says in the payloads which request it is.
        """
        attempt = await self.begin(events, key, now_ms)
        if attempt.answer is not None:
            return Acceptance(attempt.answer, -1)
        return await attempt.store(read(attempt, events, f"{number} {key}"), self.intake)

    def sent(self) -> list[str]:
        """The ids of all messages that went to the broker."""
        return [message.properties["ce_id"] for message in self.publisher.sent]

    def crash(self) -> None:
        """What a process leaves behind that ends at once: nothing it does counts any more."""
        self.line.is_cut = True
        self.repeats._is_closed = True
        self.publisher.held.clear()


def read(attempt: Attempt, events: Sequence[str], origin: str = "") -> list[Event]:
    """Decode a request's events, as a reader does.

    A payload is the request's number, which event it is in all the world, and its index.
    """
    number, _, key = origin.partition(" ")
    split = [event.partition(":") for event in events]
    new_ids = iter(attempt.new_ids(sum(not given for _user, _, given in split)))
    return [
        Event(
            given or next(new_ids), user, f"{number} {given or f'{key}/{index}'} {index}".encode()
        )
        for index, (user, _, given) in enumerate(split)
    ]


def answered(acceptance: Acceptance) -> list[dict[str, Any]]:
    """The events of an answer."""
    body = msgspec.json.decode(acceptance.body)
    assert body["accepted"] == len(body["events"])
    events: list[dict[str, Any]] = body["events"]
    return events


def ids(acceptance: Acceptance) -> list[str]:
    return [event["id"] for event in answered(acceptance)]
