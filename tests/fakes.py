"""Stand-ins for the broker that do what a test tells them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from keylane.broker import (
    Channel,
    Consumer,
    Deliver,
    OutgoingMessage,
    Position,
    Publisher,
    Receipt,
    Table,
)
from keylane.errors import BrokerUnavailable


class FakePublisher:
    """Confirms everything at once, unless told otherwise."""

    def __init__(self) -> None:
        self.connected = True
        self.closed = False
        self.sent: list[OutgoingMessage] = []
        #: Answers that wait for the test to give them, one for each message held.
        self.held: list[Callable[[Receipt], None]] = []
        #: What the broker says to the n-th message of all; None holds the answer back.
        self.answer: Callable[[int], Receipt | None] = position

    def hold(self) -> None:
        """Keep every receipt back from now on."""
        self.answer = lambda _: None

    def release(self, receipt: Receipt | None = None) -> None:
        """Give all receipts that were held back, on another thread as a client does."""
        held, self.held = self.held, []

        def give() -> None:
            for index, done in enumerate(held):
                done(receipt or position(index))

        thread = threading.Thread(target=give)
        thread.start()
        thread.join()

    def keys(self) -> list[str]:
        return [message.key for message in self.sent]

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        receipt = self.answer(len(self.sent))
        self.sent.append(message)
        if receipt is None:
            self.held.append(done)
        else:
            done(receipt)

    def is_connected(self) -> bool:
        return self.connected

    async def close(self) -> None:
        self.closed = True


def position(index: int) -> Position:
    return 1, index, -1


def answers(*receipts: Receipt | None) -> Callable[[int], Receipt | None]:
    """The receipts of the first messages; later ones are confirmed."""
    return lambda index: receipts[index] if index < len(receipts) else position(index)


class FakeBroker:
    """Hands out one publisher, after as many refusals as it is told."""

    def __init__(self, publisher: FakePublisher, refusals: int = 0) -> None:
        self.refusals = refusals
        self.closed = False
        self._publisher = publisher

    async def partitions(self, topic: str) -> int:
        return 1

    async def publisher(
        self, topic: str, *, name: str | None = None, deduplicate: bool = False
    ) -> Publisher:
        if self.refusals:
            self.refusals -= 1
            raise BrokerUnavailable
        return self._publisher

    async def subscribe(
        self,
        topic: str,
        partition: int,
        subscription: str,
        consumer_name: str,
        deliver: Deliver,
        *,
        prefetch: int = 1,
    ) -> Consumer:
        raise BrokerUnavailable

    async def channel(self, name: str, hear: Callable[[bytes], None]) -> Channel:
        raise BrokerUnavailable

    async def table(self, topic: str, hear: Callable[[str, bytes], None]) -> Table:
        raise BrokerUnavailable

    async def close(self) -> None:
        self.closed = True
