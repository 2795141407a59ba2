"""Recognizes what was sent before, and sees to it that it is stored once.

    CLAIMING -> HANDLED -> CLOSING -> GONE
                 |   ^      ^  |  ^
                 v   |      |  v  |
                WAITING ----+ UNSAVED

A request holds leases on its key and on its ids from before the first send until its outcome is
recorded (course.py, `Phase`). They are extended while this process lives. A confirmation is
recorded only after the broker's receipt, so whoever takes over sends too much, never too little.
A repeat goes on with what is WAITING or UNSAVED in this process, or with what is in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from ingest.accept import Intake, fate_of
from ingest.answers import accepted_body
from ingest.arrival import NewIds
from ingest.idempotency.course import Course, Phase, Sending
from ingest.idempotency.keyedids import KeyedIds
from ingest.idempotency.ledger import Ledger
from ingest.idempotency.records import ASK_AGAIN_S, KeyRecord, id_name, key_names, read_key
from ingest.idempotency.store import Store
from ingest.ids import new_event_ids
from ingest.refusals import Fate, KeyReused, NotConfirmed, StillRunning
from keylane.broker import Receipt
from keylane.errors import KeylaneError
from keylane.event import Event

#: Outcomes that wait for the store to come back; beyond it the oldest are given up.
MAX_UNSAVED: Final = 10_000
#: Leases are extended so many times within the time they last.
_EXTENSIONS: Final = 3


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The body of a 202, and how many of its events had been stored before."""

    body: bytes
    duplicates: int


class Repeats:
    def __init__(
        self,
        store: Store | None,
        *,
        reservation_s: float,
        on_failure: Literal["refuse", "accept"] = "refuse",
    ) -> None:
        """Without a store nothing is recognized, and nothing costs anything.

        `reservation_s` is the time that the store's leases last. `on_failure` says what happens to
        requests with a key or ids while the store is down.
        """
        self._ledger = None if store is None else Ledger(store, refuses=on_failure == "refuse")
        self._extend_every_s = reservation_s / _EXTENSIONS
        #: Requests on their way, by their key's name, or by their token if they have no key.
        self._courses: dict[bytes, Course] = {}
        self._unsaved: dict[bytes, Course] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def on_store_failure(self, tell: Callable[[], None]) -> None:
        """Have `tell` called each time that the store fails."""
        if self._ledger:
            self._ledger.on_failure = tell

    def plain(self, scope: str, now_ms: int) -> Attempt:
        """A request without an `Idempotency-Key`; `scope` is its topic."""
        return Attempt(self, scope, partial(new_event_ids, now_ms=now_ms))

    async def begin(self, scope: str, key: bytes, fingerprint: bytes, now_ms: int) -> Attempt:
        """A request with this `Idempotency-Key`, as its header has it.

        What is returned either holds an answer, or ends with its `store` or `abandon`. Raises
        `BadIdempotencyKey`, `KeyReused`, `StillRunning` or `StoreUnavailable`.
        """
        if self._ledger is None:
            return self.plain(scope, now_ms)
        text = read_key(key)
        names = key_names(scope, text)
        new = KeyRecord(fingerprint, now_ms)
        while known := self._courses.get(names.record):
            if not known.is_passing:
                self._join(known, fingerprint)
                return self._attempt(known, scope, text)
            await known.passed()
        course = self._follow(self._ledger.open(names, new))
        try:
            is_claimed = await self._ledger.claim_key(course, names, new)
        except BaseException:
            self._drop(course)
            raise
        course.phase = Phase.HANDLED
        if not is_claimed or course.known_answer:
            self._drop(course)
        if not is_claimed:
            return Attempt(self, scope, KeyedIds(scope, text, now_ms))
        return self._attempt(course, scope, text)

    def _join(self, course: Course, fingerprint: bytes) -> None:
        """Go on with a request that this process is not done with."""
        if course.record and course.record.fingerprint != fingerprint:
            raise KeyReused
        if course.phase is Phase.HANDLED:
            raise StillRunning(ASK_AGAIN_S)
        if not course.known_answer:
            course.phase = Phase.HANDLED
            self._unsaved.pop(course.owner, None)

    def _attempt(self, course: Course, scope: str, key: str) -> Attempt:
        first_ms = course.record.first_ms if course.record else 0
        ids = KeyedIds(scope, key, first_ms)
        if answer := course.known_answer:
            return Attempt(self, scope, ids, answer=answer)
        return Attempt(self, scope, ids, course)

    async def store(
        self,
        course: Course | None,
        scope: str,
        events: Sequence[Event],
        given: Sequence[int],
        intake: Intake,
    ) -> Acceptance:
        """What `Attempt.store` does; `given` are the indexes of events that came with an id."""
        if self._ledger is None or (course is None and not given):
            await intake.accept(events)
            return Acceptance(accepted_body(events), 0)
        if course is None:
            course = self._follow(self._ledger.open())
            course.phase = Phase.HANDLED
        try:
            course.expect(len(events))
            if not course.is_settled:
                await _until_settled(course, events, intake.send_deadline_s)
            await self._claim_ids(self._ledger, course, scope, events, given)
            course.answer = accepted_body(events, course.duplicates)
            if left := course.left():
                await self._send(course, events, left, intake)
            return Acceptance(course.answer, len(course.duplicates))
        finally:
            await self.leave(course)

    async def _claim_ids(
        self,
        ledger: Ledger,
        course: Course,
        scope: str,
        events: Sequence[Event],
        given: Sequence[int],
    ) -> None:
        wanted = [i for i in given if i not in course.held and not course.is_confirmed(i)]
        if not wanted:
            return
        names = [id_name(scope, events[index].id) for index in wanted]
        are_stored = await ledger.claim_ids(course, names)
        # Nothing is told of any while the store is down.
        for index, name, is_stored in zip(wanted, names, are_stored, strict=False):
            if is_stored:
                course.learn_duplicate(index)
            else:
                course.held[index] = name

    async def _send(
        self, course: Course, events: Sequence[Event], left: Sequence[int], intake: Intake
    ) -> None:
        part = events if len(left) == len(events) else [events[index] for index in left]
        sending = course.send(left)
        try:
            await intake.accept(part, partial(self._settled, course, sending))
        except NotConfirmed as error:
            course.learn(sending, [Fate(event.status) for event in error.events])
            raise course.failure(events) from error
        except KeylaneError as error:
            course.settle(sending, [Fate.NOT_SENT] * len(left))
            if course.is_untouched:
                raise
            raise course.failure(events) from error
        course.settle(sending, [Fate.CONFIRMED] * len(left))

    def _settled(
        self, course: Course, sending: Sending, receipts: Sequence[Receipt | None]
    ) -> None:
        is_news = course.settle(sending, [fate_of(receipt) for receipt in receipts])
        if is_news and course.phase is Phase.WAITING and not self._is_closed:
            course.phase = Phase.CLOSING
            self._start(self._close(course))

    async def leave(self, course: Course) -> None:
        """Record what the request has come to, also if its sender has gone."""
        await asyncio.shield(self._start(self._leave(course)))

    async def _leave(self, course: Course) -> None:
        if not course.is_settled:
            await self._save(course)
        # The receipts may have come while it was saved.
        if course.is_settled:
            await self._close(course)
        else:
            course.phase = Phase.WAITING

    async def _close(self, course: Course) -> bool:
        """Be done with a request, unless the store fails; whether it did not."""
        course.phase = Phase.CLOSING
        self._unsaved.pop(course.owner, None)
        if await self._save(course):
            self._drop(course)
            return True
        course.phase = Phase.UNSAVED
        self._unsaved[course.owner] = course
        if len(self._unsaved) > MAX_UNSAVED:
            self._drop(next(iter(self._unsaved.values())))
        return False

    async def _save(self, course: Course) -> bool:
        return self._ledger is None or await self._ledger.save(course)

    def _follow(self, course: Course) -> Course:
        self._courses[course.names.record if course.names else course.owner] = course
        self._wind()
        return course

    def _drop(self, course: Course) -> None:
        del self._courses[course.names.record if course.names else course.owner]
        self._unsaved.pop(course.owner, None)
        if self._ledger:
            self._ledger.drop(course)
        course.phase = Phase.GONE

    def _wind(self) -> None:
        if self._timer is None and self._courses and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._extend_every_s, self._tick)

    def _tick(self) -> None:
        self._start(self._extend())

    async def _extend(self) -> None:
        """Extend what is leased, and try again to record what could not be."""
        try:
            for course in [*self._courses.values()]:
                if not await self._touch(course):
                    break  # the others would have to wait for it to fail as well
        finally:
            self._timer = None
            self._wind()

    async def _touch(self, course: Course) -> bool:
        if course.phase is Phase.UNSAVED:
            return await self._close(course)
        return self._ledger is None or await self._ledger.extend(course)

    def _start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Record what can be recorded, and let go of the store.

        What is still under way keeps its reservation, which ends by itself.
        """
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for course in [*self._unsaved.values()]:
            if not await self._save(course):
                break
        if self._ledger is not None:
            await self._ledger.close()


async def _until_settled(course: Course, events: Sequence[Event], deadline_s: float) -> None:
    try:
        async with asyncio.timeout(deadline_s):
            await course.settled.wait()
    except TimeoutError as error:
        raise course.failure(events) from error


class Attempt:
    """One try of a request: `answer` is what it was answered before, if it was."""

    __slots__ = ("_course", "_made", "_make_ids", "_repeats", "_scope", "answer")

    def __init__(
        self,
        repeats: Repeats,
        scope: str,
        make_ids: NewIds,
        course: Course | None = None,
        *,
        answer: bytes | None = None,
    ) -> None:
        self.answer = answer
        self._repeats = repeats
        self._scope = scope
        self._make_ids = make_ids
        self._course = course
        self._made: list[str] = []

    def new_ids(self, count: int) -> list[str]:
        """Ids for events that came without; with a key the same on every repeat.

        An id of an event that was not made here counts as given by the sender.
        """
        made = self._make_ids(count)
        self._made = [*self._made, *made] if self._made else made
        return made

    async def store(self, events: Sequence[Event], intake: Intake) -> Acceptance:
        """Send what is not stored yet, in order; returns once all is stored.

        Raises `StillRunning` or `StoreUnavailable` before anything is sent, and what
        `Intake.accept` raises, which then speaks of all events of the request. To be called once.
        """
        given = self._given(events)
        return await self._repeats.store(self._course, self._scope, events, given, intake)

    async def abandon(self) -> None:
        """Give the key back: the request was refused before `store`."""
        if self._course:
            await self._repeats.leave(self._course)

    def _given(self, events: Sequence[Event]) -> Sequence[int]:
        if len(self._made) == len(events):
            return ()
        made = set(self._made)
        return [index for index, event in enumerate(events) if event.id not in made]
