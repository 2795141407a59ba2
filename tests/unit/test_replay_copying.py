"""The copies of a replay, on a broker that does what a real one does only on bad days."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keylane.broker import OutgoingMessage, Position
from keylane.errors import BrokerUnavailable, EventTooLarge
from keylane.names import partition_topic, redrive_topic
from keylane.pulsarlog import BATCH, sequence_of
from operate.pacing import Pacing
from operate.replaying.copying import Cancelled, Copying
from operate.replaying.plan import Count, Part, Replay
from operate.replaying.window import Wanted
from tests.messages import Message

AT_MS = 1_800_000_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def event(number: int, ledger: int = 7) -> Message:
    return Message("ana", b"%d" % number, {}, (ledger, number, -1), publish_time_ms=AT_MS)


class Reader:
    def __init__(self, messages: Sequence[Message]) -> None:
        self._left = list(messages)

    async def read(self, at_most: int = BATCH) -> list[Message]:
        batch, self._left = self._left[:at_most], self._left[at_most:]
        return batch


class Publisher:
    """Stores a sequence once, as a topic that deduplicates."""

    def __init__(self, stored: list[Message], last: int, refused: Sequence[bytes]) -> None:
        self._stored = stored
        self._refused = refused
        self.last = last

    async def publish(self, messages: Sequence[tuple[int, OutgoingMessage]]) -> None:
        is_refused = False
        for sequence, message in messages:
            if message.value in self._refused:
                is_refused = True
            elif sequence > self.last:
                self.last = sequence
                self._stored.append(Message(message.key, message.value, dict(message.properties)))
        if is_refused:
            raise EventTooLarge


class Logs:
    """Topics by name; `forgets` is a broker that no longer knows its publishers."""

    def __init__(self, **partitions: Sequence[Message]) -> None:
        self.topics = {
            partition_topic("events", int(name[1:])): list(messages)
            for name, messages in partitions.items()
        }
        self.copies: list[Message] = []
        self.topics[redrive_topic("events", "crm")] = self.copies
        self.lasts: dict[str, int] = {}
        self.refused: list[bytes] = []
        self.forgets = False
        self.publishers: dict[str, Publisher] = {}

    async def reader(self, topic: str, *, from_ms: int | None = None) -> Reader:
        assert from_ms is not None
        return Reader(self.topics[topic])

    async def publisher(self, topic: str, name: str) -> Publisher:
        known = self.publishers.get(name)
        last = -1 if known is None or self.forgets else known.last
        self.publishers[name] = Publisher(self.copies, last, self.refused)
        return self.publishers[name]

    def values(self) -> list[int]:
        return [int(copy.value()) for copy in self.copies]


def replay(*parts: Part) -> Replay:
    count = Count(parts, 1, 0, 0)
    wanted = Wanted(AT_MS, AT_MS + 1)
    return Replay("id", wanted, ("1h", ""), False, count, "2027-01-15T08:00:00.000Z")


def part(partition: int, last: Position, events: int = 1) -> Part:
    return Part(partition, events, last)


async def copy(
    logs: Any,
    made: Replay,
    *,
    goes_on: bool = False,
    is_wanted: Callable[[], bool] = lambda: True,
    rate: float | None = None,
) -> Copying:
    copying = Copying(logs, "events", "crm", made, Pacing(rate), is_wanted, lambda _: None)
    await copying.open(goes_on=goes_on)
    await copying.run()
    return copying


async def test_nothing_behind_the_last_counted_event_is_copied() -> None:
    logs = Logs(p0=[event(n) for n in range(2 * BATCH)], p1=[event(n, 8) for n in range(4)])

    copying = await copy(logs, replay(part(0, (7, BATCH, -1)), part(1, (8, 1, -1))))

    assert sorted(logs.values()) == sorted([*range(BATCH + 1), 0, 1])
    assert copying.copied.published == BATCH + 3


async def test_what_an_earlier_run_published_is_counted_and_not_published_again() -> None:
    logs = Logs(p0=[event(n) for n in range(9)])
    made = replay(part(0, (7, 8, -1)))
    logs.publishers["replay-id-0"] = Publisher([], sequence_of((7, 3, -1)), ())

    copying = await copy(logs, made, goes_on=True)

    assert logs.values() == [4, 5, 6, 7, 8]
    assert (copying.copied.before, copying.copied.published) == (4, 5)


async def test_copies_are_recalled_when_the_broker_has_forgotten_who_published_them() -> None:
    logs = Logs(p0=[event(n) for n in range(6)], p1=[event(n, 8) for n in range(10, 14)])
    whole = replay(part(0, (7, 5, -1)), part(1, (8, 13, -1)))
    await copy(logs, replay(part(0, (7, 2, -1)), part(1, (8, 11, -1))))
    logs.copies.append(Message("eve", b"99", {"keylane-replay": "another"}))
    logs.forgets = True

    copying = await copy(logs, whole, goes_on=True)

    assert sorted(logs.values()) == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 99]
    assert (copying.copied.before, copying.copied.published) == (5, 5)


async def test_an_event_that_is_too_large_for_a_copy_is_left_out_and_counted() -> None:
    logs = Logs(p0=[event(n) for n in range(5)])
    logs.refused.append(b"2")

    copying = await copy(logs, replay(part(0, (7, 4, -1))))

    assert logs.values() == [0, 1, 3, 4]
    assert (copying.copied.published, copying.copied.too_large) == (4, 1)


async def test_nothing_is_published_once_it_is_cancelled() -> None:
    logs = Logs(p0=[event(n) for n in range(100)])
    made = replay(part(0, (7, 99, -1)))

    with pytest.raises(Cancelled):
        await copy(logs, made, rate=200, is_wanted=lambda: len(logs.copies) < 40)

    assert len(logs.copies) == 40


async def test_a_lost_broker_comes_out_as_it_is() -> None:
    logs = Logs(p0=[event(0)], p1=[event(0)])

    class Gone:
        last = -1

        async def publish(self, messages: object) -> None:
            raise BrokerUnavailable

    async def gone(topic: str, name: str) -> Gone:
        return Gone()

    logs.publisher = gone  # type: ignore[assignment, method-assign]

    with pytest.raises(BrokerUnavailable):
        await copy(logs, replay(part(0, (7, 0, -1)), part(1, (7, 0, -1))))


async def test_a_rate_is_kept_by_all_partitions_together(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("operate.pacing.asyncio.sleep", sleep)
    logs = Logs(p0=[event(n) for n in range(50)], p1=[event(n) for n in range(50)])

    await copy(logs, replay(part(0, (7, 49, -1)), part(1, (7, 49, -1))), rate=100)

    # Fifty turns of two: the last is due after 0.98 s.
    assert 0.9 < max(slept) <= 0.98
