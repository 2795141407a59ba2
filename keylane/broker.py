"""The broker as Keylane sees it: publish with a receipt, subscribe to one partition, acknowledge.

Two adapters stand behind this port: keylane/pulsar.py and keylane/memory.py. The suite in
tests/contract runs on both; what one can do the other must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from keylane.errors import BrokerError

#: Where the broker stored a message: (ledger, entry, index in its batch, -1 outside a batch).
#: Within one partition positions are ordered as the messages are.
Position: TypeAlias = tuple[int, int, int]

#: What stands for the position of a message that was stored, but not where: the broker had it
#: already when a deduplicating publisher sent it again.
STORED_BEFORE: Final[Position] = (-1, -1, -1)

#: Messages that the client fetches ahead a consumer; Pulsar's own default.
DEFAULT_PREFETCH: Final = 1_000

#: Between two calls of `Consumer.negative_acknowledge`. Pulsar's client re-arms one timer at every
#: call: measured, redelivery is back 134 ms after a call, and never while calls come closer
#: together than 33 ms.
REDELIVERY_INTERVAL_S: Final = 0.2
#: Messages in one such call. The broker's look-ahead ends, for all keys, when its replay queue
#: holds 2,000 a consumer: no call comes near that.
REDELIVERY_BURST: Final = 500


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """What is handed to a publisher; `key` also picks the partition (keylane/routing.py)."""

    key: str
    value: bytes
    properties: Mapping[str, str] = field(default_factory=dict)
    event_time_ms: int = 0


class Received(Protocol):
    """A message as a consumer got it. Payload and properties are read only when asked for."""

    @property
    def key(self) -> str:
        """The message's key; empty when it has none."""
        ...

    @property
    def position(self) -> Position: ...

    @property
    def redelivery_count(self) -> int:
        """How often the broker sent it before; restarts at 0 when the topic is unloaded."""
        ...

    @property
    def event_time_ms(self) -> int:
        """When the event was accepted; 0 if its producer didn't say."""
        ...

    @property
    def publish_time_ms(self) -> int: ...

    def value(self) -> bytes: ...

    def properties(self) -> dict[str, str]: ...


#: What became of a message that was sent: where it is stored, or why that is not known.
Receipt: TypeAlias = Position | BrokerError


class Publisher(Protocol):
    """Sends messages to one topic, each user's in the order of the calls.

    It finds back to the broker by itself. What it has unsent when it has to begin anew is told as
    `PublishUnconfirmed` before anything later is sent.
    """

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        """Send and return at once, never blocking.

        `done` is called exactly once, on any thread, possibly before this returns; it must be
        quick and must not raise. `EventTooLarge` says that nothing was stored, `BrokerUnavailable`
        that nothing was sent, `PublishUnconfirmed` that the message may be stored or not.
        """
        ...

    def is_connected(self) -> bool:
        """Whether the broker can confirm now; false within 5 s of when it no longer answers."""
        ...

    async def close(self) -> None: ...


class Consumer(Protocol):
    """One worker's place on one partition of a Key_Shared subscription."""

    @property
    def partition(self) -> int: ...

    def is_connected(self) -> bool:
        """Whether the broker can reach this consumer.

        To be asked every few hundredths of a second: a loss that nobody saw can't keep what was
        received before it from being handed over after it, when it may be another consumer's.
        """
        ...

    def acknowledge(self, messages: Iterable[Received]) -> None:
        """Tell the broker that these are done. Never waits; lost while disconnected."""
        ...

    def negative_acknowledge(self, positions: Sequence[Position]) -> None:
        """Give these back for redelivery, to whoever owns their key then. Never waits.

        Calls come at least `REDELIVERY_INTERVAL_S` apart, with at most `REDELIVERY_BURST` messages.
        """
        ...

    async def confirm(self) -> None:
        """Return when the broker has answered a question that was asked after this call.

        It knew this consumer then. Raises `BrokerUnavailable` when no answer came, or when the
        connection was lost in between.
        """
        ...

    def pause(self) -> None:
        """Hand over no further batch until `resume`; what the client prefetched stays there."""
        ...

    def resume(self) -> None: ...

    async def close(self) -> None:
        """Leave the subscription: everything unacknowledged goes back, in order."""
        ...


#: Takes a batch of one partition, in the order of arrival, on the event loop. The next batch
#: of that partition is handed over only after it returned.
Deliver: TypeAlias = Callable[[int, Sequence[Received]], None]


class Channel(Protocol):
    """Tells everybody who listens now; what nobody hears is gone."""

    def say(self, what: bytes) -> None:
        """Never waits, never raises; lost while disconnected."""
        ...


class Table(Protocol):
    """The latest value of each key, kept by the broker: a compacted topic."""

    async def put(self, key: str, value: bytes) -> None:
        """Return when the broker has confirmed it; an empty value forgets the key.

        Raises `BrokerError`: it may be kept or not.
        """
        ...

    async def catch_up(self) -> None:
        """Return when everything that was confirmed before this call has been heard.

        Calls that come while one is under way share the next one. Raises `BrokerUnavailable`.
        """
        ...

    async def close(self) -> None: ...


class Broker(Protocol):
    """One session with the broker. Everything it opened is closed by `close`."""

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has, 0 if it is not partitioned.

        Raises `BrokerUnavailable`.
        """
        ...

    async def publisher(
        self, topic: str, *, name: str | None = None, deduplicate: bool = False
    ) -> Publisher:
        """Open a publisher to a topic, partitioned or not; raises `BrokerUnavailable`.

        With `deduplicate` nothing times out: after a lost connection it sends again what is
        unconfirmed, and on a topic that deduplicates (keylane/topics.py) the broker stores once
        what it gets twice. The broker knows it again by `name`, which then has to be given, and
        which only one publisher at a time may have on a topic.
        """
        ...

    async def subscribe(
        self,
        topic: str,
        partition: int,
        subscription: str,
        consumer_name: str,
        deliver: Deliver,
        *,
        prefetch: int = DEFAULT_PREFETCH,
    ) -> Consumer:
        """Join a Key_Shared subscription on one partition, from the earliest event if it is new.

        `consumer_name` decides which keys this consumer gets (the broker's hash ring is made of
        names): unique within the subscription, the same after a restart. The first batch is handed
        over only after the caller has its consumer. `prefetch` messages may wait at the client:
        more is faster, and less lets go sooner of a key that moves. Raises `BrokerUnavailable`.
        """
        ...

    async def channel(self, name: str, hear: Callable[[bytes], None]) -> Channel:
        """Open a channel by name; `hear` gets on the event loop what anybody says from now on.

        Also what is said through this very channel. Raises `BrokerUnavailable`.
        """
        ...

    async def table(self, topic: str, hear: Callable[[str, bytes], None]) -> Table:
        """Open a table; `hear` gets everything kept, oldest first, before this returns.

        From then on it gets on the event loop what anybody puts, also through this very table.
        Raises `BrokerUnavailable`.
        """
        ...

    async def close(self) -> None: ...
