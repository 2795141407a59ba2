"""A table whose reader hangs, and one whose marks stay unconfirmed."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import cast

import pytest
from typing_extensions import override

from keylane import pulsartable
from keylane.broker import OutgoingMessage, Position, Receipt
from keylane.errors import BrokerUnavailable, PublishUnconfirmed
from keylane.pulsarreader import TableReader
from keylane.pulsartable import PulsarTable
from tests.fakes import FakePublisher


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUT_TIMEOUT_S", "HEAR_TIMEOUT_S", "READ_SILENCE_S"):
        monkeypatch.setattr(pulsartable, name, 0.2)


class Topic(FakePublisher):
    """Stores what is sent, for its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[str, bytes, Position]] = []
        self.readers: list[Reader] = []
        self.is_silent = False

    @override
    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        position = (1, len(self.stored), -1)
        self.stored.append((message.key, message.value, position))
        for reader in self.readers:
            reader.stored.put(self.stored[-1])
        super().send(message, done)

    def open_reader(self, after: Position | None) -> TableReader:
        reader = Reader(self, after)
        self.readers.append(reader)
        return cast(TableReader, reader)


class Reader:
    def __init__(self, topic: Topic, after: Position | None) -> None:
        self.after = after
        self.hangs = topic.is_silent
        self.stored: queue.Queue[tuple[str, bytes, Position]] = queue.Queue()
        for entry in topic.stored:
            if after is None or entry[2] > after:
                self.stored.put(entry)
        self.closed = False

    def read(self, at_most: int, timeout_ms: int) -> list[tuple[str, bytes, Position]]:
        try:
            entry = self.stored.get(timeout=0.01)
        except queue.Empty:
            return []
        return [] if self.hangs else [entry]

    def close(self) -> None:
        self.closed = True


class Table:
    def __init__(self) -> None:
        self.topic = Topic()
        self.heard: list[tuple[str, bytes]] = []
        self.table = PulsarTable(self.topic, self.topic.open_reader, self.hear)

    def hear(self, key: str, value: bytes) -> None:
        self.heard.append((key, value))


async def test_a_reader_that_misses_a_mark_is_replaced_where_it_ended() -> None:
    scene = Table()
    await scene.table.open()
    await scene.table.put("Ada", b"1")
    await scene.table.catch_up()
    (first,) = scene.topic.readers
    first.hangs = True
    await scene.table.put("Ada", b"2")

    with pytest.raises(BrokerUnavailable, match="heard nothing"):
        await scene.table.catch_up()
    await scene.table.catch_up()

    assert first.closed
    assert scene.topic.readers[1].after == (1, 2, -1)
    assert scene.heard == [("Ada", b"1"), ("Ada", b"2")]
    await scene.table.close()
    assert scene.topic.readers[1].closed
    assert scene.topic.closed


async def test_a_table_that_hears_nothing_does_not_open() -> None:
    scene = Table()
    scene.topic.is_silent = True

    with pytest.raises(BrokerUnavailable):
        await scene.table.open()

    await scene.table.close()


async def test_what_is_not_confirmed_in_time_may_be_kept_or_not() -> None:
    scene = Table()
    await scene.table.open()
    scene.topic.hold()

    with pytest.raises(PublishUnconfirmed):
        await scene.table.put("Ada", b"1")
    with pytest.raises(BrokerUnavailable):
        await scene.table.catch_up()

    # The receipt that comes late disturbs nobody.
    scene.topic.release()
    await scene.table.close()


async def test_what_the_broker_refuses_is_raised() -> None:
    scene = Table()
    await scene.table.open()
    scene.topic.answer = lambda _: BrokerUnavailable("no")

    with pytest.raises(BrokerUnavailable, match="no"):
        await scene.table.put("Ada", b"1")

    await scene.table.close()
