from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pulsar
import pytest

from keylane.broker import Position
from keylane.errors import BrokerUnavailable
from keylane.place import EntryId
from keylane.pulsarlog import LogReader


@dataclass(frozen=True, slots=True)
class MessageAt:
    """The client's message and its id in one."""

    place: Position

    def message_id(self) -> MessageAt:
        return self

    def ledger_id(self) -> int:
        return self.place[0]

    def entry_id(self) -> int:
        return self.place[1]

    def batch_index(self) -> int:
        return self.place[2]

    def partition_key(self) -> str:
        return "user-1"

    def redelivery_count(self) -> int:
        return 0


LOG: Sequence[Position] = [(7, 0, -1), (7, 1, 0), (7, 1, 1), (7, 2, -1), (8, 0, -1)]


@dataclass(slots=True)
class Topic:
    """`silent_behind` are positions behind which the reader of that turn gets nothing."""

    silent_behind: list[Position | None]
    opened: list[Position | None] = field(default_factory=list)
    closed: int = 0

    def open_behind(self, after: Position | None) -> ReaderOfIt:
        self.opened.append(after)
        silent = self.silent_behind.pop(0) if self.silent_behind else LOG[-1]
        return ReaderOfIt(self, [place for place in LOG if after is None or place > after], silent)


@dataclass(slots=True)
class ReaderOfIt:
    topic: Topic
    left: list[Position]
    silent_behind: Position | None
    last: Position | None = None

    def has_message_available(self) -> bool:
        return bool(self.left)

    def read_next(self, timeout_millis: int) -> MessageAt:
        assert timeout_millis >= 1000
        if self.silent_behind is None or self.last == self.silent_behind:
            raise pulsar.Timeout
        self.last = self.left.pop(0)
        return MessageAt(self.last)

    def close(self) -> None:
        self.topic.closed += 1


async def all_of(topic: Topic, at_most: int = 3) -> list[Position]:
    reader = LogReader(topic.open_behind, upto=None)
    found = []
    while batch := await reader.read(at_most):
        found += [message.position for message in batch]
    return found


@pytest.mark.parametrize("place", LOG[:-1])
async def test_a_reader_that_gets_nothing_is_opened_again_behind_what_it_read(
    place: Position,
) -> None:
    topic = Topic([place])

    assert await all_of(topic) == LOG
    assert topic.opened == [None, place]
    assert topic.closed == 1


async def test_one_that_never_got_anything_begins_anew() -> None:
    topic = Topic([None, None])

    assert await all_of(topic) == LOG
    assert topic.opened == [None, None, None]


@pytest.mark.parametrize("place", [None, LOG[2]])
async def test_after_the_third_silence_in_a_row_it_is_told(place: Position | None) -> None:
    topic = Topic([place, None, None, None])

    with pytest.raises(BrokerUnavailable, match="sends nothing, though there is more"):
        await all_of(topic, at_most=len(LOG))

    assert len(topic.opened) == 3


async def test_silences_with_messages_between_them_are_borne() -> None:
    topic = Topic([LOG[0], LOG[1], LOG[2], LOG[3]])

    assert await all_of(topic, at_most=1) == LOG
    assert len(topic.opened) == 5


async def test_nothing_is_read_beyond_what_is_asked_for() -> None:
    reader = LogReader(Topic([]).open_behind, upto=EntryId(7, 1))

    assert [m.position for m in await reader.read(10)] == LOG[:3]
