"""One request on its way: what its events have come to, and what is to be recorded of that.

It outlives the answer: after a 503 receipts may still be under way, and a repeat goes on from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ingest.idempotency.records import KeyNames, KeyRecord, Mark
from ingest.refusals import EventFate, Fate, NotConfirmed, RefusedByBroker
from keylane.event import Event


class Phase(Enum):
    """Who may go on with a request."""

    #: The store is asked whether it is a repeat.
    CLAIMING = auto()
    #: A sender waits for its answer.
    HANDLED = auto()
    #: It was answered, but receipts are still under way.
    WAITING = auto()
    #: Its outcome is being recorded.
    CLOSING = auto()
    #: Its outcome could not be recorded; that is tried again.
    UNSAVED = auto()
    GONE = auto()


#: Phases that end soon by themselves.
_PASSING: Final = frozenset({Phase.CLAIMING, Phase.CLOSING})
_UNTOUCHED: Final = frozenset({Fate.NOT_SENT, Fate.TOO_LARGE})


@dataclass(frozen=True, slots=True, eq=False)
class Sending:
    """Events handed to the broker together: their indexes, and what was known of them before."""

    indexes: Sequence[int]
    before: Sequence[Fate]


class Course:
    def __init__(
        self, owner: bytes, names: KeyNames | None = None, record: KeyRecord | None = None
    ) -> None:
        """`names` and `record` are those of its key; a request without a key has none."""
        self.owner = owner
        self.names = names
        self.record = record
        #: Whether nothing was known of the key before, so that it may be forgotten again.
        self.is_new = True
        #: What is known of each event by its index; empty before they have been read.
        self.fates: list[Fate] = []
        #: Indexes of events that other requests have stored.
        self.duplicates: set[int] = set()
        #: Names of the ids that are leased to this request, by the index of the event.
        self.held: dict[int, bytes] = {}
        #: The body of the 202 if all get stored.
        self.answer = b""
        self.settled = asyncio.Event()
        self.settled.set()
        self._under_way: Sending | None = None
        self._has_passed = asyncio.Event()
        self._phase = Phase.CLAIMING

    @property
    def phase(self) -> Phase:
        return self._phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._phase = phase
        if phase in _PASSING:
            self._has_passed.clear()
        else:
            self._has_passed.set()

    @property
    def is_passing(self) -> bool:
        return self._phase in _PASSING

    async def passed(self) -> None:
        """Wait until it is known who may go on."""
        await self._has_passed.wait()

    @property
    def is_settled(self) -> bool:
        """Whether no event is under way to the broker."""
        return self._under_way is None

    @property
    def is_stored(self) -> bool:
        return bool(self.fates) and all(fate is Fate.CONFIRMED for fate in self.fates)

    @property
    def known_answer(self) -> bytes:
        """The body of the 202 if every event is stored; else empty."""
        if self.is_stored:
            return self.answer
        return self.record.answer if self.record else b""

    @property
    def is_untouched(self) -> bool:
        """Whether no event of it can have reached the broker."""
        return all(
            fate in _UNTOUCHED or index in self.duplicates for index, fate in enumerate(self.fates)
        )

    def expect(self, count: int) -> None:
        """Learn how many events it has; once known, nothing changes."""
        if self.fates:
            return
        # Whoever had the key before may have sent what it could not record.
        self.fates = [Fate.NOT_SENT if self.is_new else Fate.UNKNOWN] * count
        for index, mark in enumerate(self.record.marks[:count] if self.record else b""):
            if mark != Mark.OPEN:
                self.fates[index] = Fate.CONFIRMED
            if mark == Mark.DUPLICATE:
                self.duplicates.add(index)

    def is_confirmed(self, index: int) -> bool:
        return self.fates[index] is Fate.CONFIRMED

    def left(self) -> list[int]:
        """Indexes of the events that are to be sent, in their order."""
        return [index for index in range(len(self.fates)) if not self.is_confirmed(index)]

    def learn_duplicate(self, index: int) -> None:
        self.fates[index] = Fate.CONFIRMED
        self.duplicates.add(index)

    def send(self, indexes: Sequence[int]) -> Sending:
        self._under_way = Sending(indexes, [self.fates[index] for index in indexes])
        self.settled.clear()
        return self._under_way

    def learn(self, sending: Sending, fates: Sequence[Fate]) -> None:
        for index, before, fate in zip(sending.indexes, sending.before, fates, strict=True):
            # That it was not sent now says nothing about the times before.
            self.fates[index] = before if fate is Fate.NOT_SENT else fate

    def settle(self, sending: Sending, fates: Sequence[Fate]) -> bool:
        """Take what the events have come to in the end; False if that is known already."""
        if self._under_way is not sending:
            return False
        self.learn(sending, fates)
        self._under_way = None
        self.settled.set()
        return True

    def failure(self, events: Sequence[Event]) -> NotConfirmed:
        """What the sender is told of every event of the request."""
        known = [
            EventFate(index, event.id, event.user, fate)
            for index, (event, fate) in enumerate(zip(events, self.fates, strict=True))
        ]
        return RefusedByBroker(known) if Fate.TOO_LARGE in self.fates else NotConfirmed(known)

    def outcome(self) -> KeyRecord | None:
        """What is to be remembered of its key; `None` if it is to be forgotten."""
        assert self.record is not None  # noqa: S101  asked only of requests with a key
        fingerprint, first_ms = self.record.fingerprint, self.record.first_ms
        if self.is_stored:
            return KeyRecord(fingerprint, first_ms, answer=self.answer)
        if not self.fates:
            return None if self.is_new else self.record
        if self.is_new and self.is_settled and self.is_untouched:
            return None
        return KeyRecord(fingerprint, first_ms, bytes(map(self._mark, range(len(self.fates)))))

    def _mark(self, index: int) -> Mark:
        if index in self.duplicates:
            return Mark.DUPLICATE
        return Mark.CONFIRMED if self.is_confirmed(index) else Mark.OPEN

    def known_ids(self) -> dict[int, bool]:
        """Of the leased ids that are not under way, by index: whether they are stored."""
        under_way = set(self._under_way.indexes) if self._under_way else set()
        return {
            index: self.is_confirmed(index)
            for index in self.held
            if self.is_confirmed(index) or index not in under_way
        }
