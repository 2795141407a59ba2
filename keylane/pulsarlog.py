"""Topics as a person's command works on them: read through, publish once, acknowledge by position.

Apart from the workers' port (keylane/broker.py), because nothing of it is needed while events are
delivered. Everything blocks on threads; the loop stays free.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from keylane.broker import OutgoingMessage, Position, Receipt
from keylane.credentials import credentials_of
from keylane.errors import BrokerError, BrokerUnavailable, PublishUnconfirmed
from keylane.names import full_topic
from keylane.place import EntryId
from keylane.pulsarclient import (
    Client,
    ClientError,
    TimedOut,
    close_all,
    message_id_of,
    outgoing,
    receipt_of,
)
from keylane.pulsarmessage import PulsarMessage
from keylane.settings import PulsarSettings

#: Messages read at once, and published before their receipts are waited for.
BATCH: Final = 500
_SEND_TIMEOUT_S: Final = 30.0
#: A broker that is busy may take its time, and says that there is more before it can send it. But
#: one that failed to read an entry waits 15 s and longer before it reads on for the same reader.
_SILENCES_MS: Final = (5_000, 10_000, 15_000)
_ANSWERED_WITHIN_S: Final = 30.0
#: Bits of a sequence for a message's entry in its ledger (a ledger has 50,000 by default), and for
#: its index in a batch (1,000 by the client's default).
_ENTRY_BITS: Final = 24
_INDEX_BITS: Final = 10


def sequence_of(position: Position) -> int:
    """A number that grows with the position in one partition, below 2^63."""
    ledger, entry, index = position
    return (ledger << _ENTRY_BITS | entry) << _INDEX_BITS | (index + 1)


class LogReader:
    """Reads a topic without partitions, or one partition; no subscription knows of it.

    `open_behind` opens the client's reader behind a position, or for None where it is to begin; it
    blocks and raises `BrokerUnavailable`, as making this does.
    """

    def __init__(self, open_behind: Callable[[Position | None], Any], upto: EntryId | None) -> None:
        self._open_behind = open_behind
        self._reader = open_behind(None)
        self._last: Position | None = None
        self._upto = upto

    async def read(self, at_most: int = BATCH) -> list[PulsarMessage]:
        """The next messages; empty at the end of what is there now, or of what is asked for.

        Raises `BrokerUnavailable`.
        """
        batch = await asyncio.to_thread(self._read, at_most)
        if self._upto is None or not batch or EntryId.of(batch[-1].position) <= self._upto:
            return batch
        return [message for message in batch if EntryId.of(message.position) <= self._upto]

    def _read(self, at_most: int) -> list[PulsarMessage]:
        batch: list[PulsarMessage] = []
        silences = iter(_SILENCES_MS)
        wait_ms = next(silences)
        while len(batch) < at_most and self._has_more():
            try:
                message = PulsarMessage(self._reader.read_next(wait_ms))
            except TimedOut as error:
                wait_ms = next(silences, 0)
                if not wait_ms:
                    raise BrokerUnavailable(
                        "The broker sends nothing, though there is more."
                    ) from error
                self._open_again()
            except ClientError as error:
                raise BrokerUnavailable(f"The broker's client refused to read: {error}") from error
            else:
                batch.append(message)
                self._last = message.position
        return batch

    def _open_again(self) -> None:
        close_all([self._reader])
        self._reader = self._open_behind(self._last)

    def _has_more(self) -> bool:
        # What retries costs more than the question, which the client mostly answers by itself.
        with contextlib.suppress(ClientError):
            return bool(self._reader.has_message_available())
        # A topic that was just made, or moves, is not known to its broker for a moment.
        retrying = Retrying(
            retry=retry_if_exception_type(ClientError),
            stop=stop_after_delay(_ANSWERED_WITHIN_S),
            wait=wait_fixed(0.5),
            reraise=True,
        )
        try:
            return bool(retrying(self._reader.has_message_available))
        except ClientError as error:
            raise BrokerUnavailable(f"The broker does not say what there is: {error}") from error

    async def close(self) -> None:
        await asyncio.to_thread(close_all, [self._reader])


class Acknowledger:
    """The only consumer of a subscription while it is open, so that nobody else works on it."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    async def acknowledge(self, positions: Iterable[Position]) -> None:
        """Tell the broker that these are done; it has heard all when `close` has returned.

        Raises `BrokerUnavailable`.
        """
        await asyncio.to_thread(self._acknowledge, list(positions))

    def _acknowledge(self, positions: Sequence[Position]) -> None:
        try:
            for position in positions:
                self._consumer.acknowledge(message_id_of(position))
        except ClientError as error:
            raise BrokerUnavailable(f"The broker's client refused: {error}") from error

    async def close(self) -> None:
        await asyncio.to_thread(close_all, [self._consumer])


class SequencedPublisher:
    """Publishes to a topic that deduplicates, so that the same sequence is stored once.

    `last` is the highest sequence that the broker stored under this publisher's name, -1 for none;
    what is not above it is not stored again. Sequences have to grow.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self.last: int = producer.last_sequence_id()

    async def publish(self, messages: Sequence[tuple[int, OutgoingMessage]]) -> None:
        """Publish each under its sequence; all are confirmed when this returns.

        Raises the first `BrokerError`: then some may be stored and others not, and the same call
        may be made again.
        """
        loop = asyncio.get_running_loop()
        receipts: asyncio.Queue[Receipt] = asyncio.Queue()

        def confirmed(result: Any, message_id: Any) -> None:
            loop.call_soon_threadsafe(receipts.put_nowait, receipt_of(result, message_id))

        try:
            for sequence, message in messages:
                self._producer._producer.send_async(outgoing(message, sequence), confirmed)  # noqa: SLF001  as keylane/pulsarclient.py does
        except ClientError as error:
            raise BrokerUnavailable(f"The broker's client refused to send: {error}") from error
        failed: BrokerError | None = None
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S + 1):
                for _ in messages:
                    receipt = await receipts.get()
                    failed = failed or (receipt if isinstance(receipt, BrokerError) else None)
        except TimeoutError as error:
            raise PublishUnconfirmed from error
        if failed is not None:
            raise failed
        if messages:
            self.last = max(self.last, messages[-1][0])

    async def close(self) -> None:
        await asyncio.to_thread(close_all, [self._producer])


class PulsarLogs:
    """A session, to be used as an async context manager; closes what it opened.

    Its methods raise `BrokerUnavailable`.
    """

    def __init__(self, access: PulsarSettings) -> None:
        self._access = access
        self._client: Client | None = None
        self._opened: list[LogReader | Acknowledger | SequencedPublisher] = []

    async def __aenter__(self) -> Self:
        self._client = Client(self._access, credentials_of(self._access))
        return self

    async def __aexit__(self, *_: object) -> None:
        for opened in self._opened:
            await opened.close()
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    def _opened_client(self) -> Client:
        if self._client is None:
            raise RuntimeError("use PulsarLogs with `async with`")
        return self._client

    async def reader(
        self,
        topic: str,
        *,
        after: Position | None = None,
        from_ms: int | None = None,
        upto: EntryId | None = None,
    ) -> LogReader:
        """Read from behind a position, from a publish time, or from the earliest that is kept.

        Up to an entry (`PulsarAdmin.last_entry`), or on and on while something comes.
        """
        client = self._opened_client()

        def open_behind(last: Position | None) -> Any:
            reader = client.reader_behind(full_topic(topic), last or after)
            if last is None and from_ms is not None:
                try:
                    reader.seek(from_ms)
                except ClientError as error:
                    raise BrokerUnavailable(f"The broker can't seek in {topic}: {error}") from error
            return reader

        found = await asyncio.to_thread(LogReader, open_behind, upto)
        self._opened.append(found)
        return found

    async def acknowledger(self, topic: str, subscription: str, name: str) -> Acknowledger:
        """Be the only consumer of a subscription; raises `SubscriptionBusy` if there is another."""
        client = self._opened_client()
        consumer = await asyncio.to_thread(
            client.only_consumer, full_topic(topic), subscription, name
        )
        self._opened.append(found := Acknowledger(consumer))
        return found

    async def publisher(self, topic: str, name: str) -> SequencedPublisher:
        """A publisher known to the broker by name; only one at a time may have it on a topic."""
        client = self._opened_client()
        producer = await asyncio.to_thread(
            client.producer, full_topic(topic), _SEND_TIMEOUT_S, name
        )
        self._opened.append(found := SequencedPublisher(producer))
        return found
