"""What is used of pulsar-client; the only module that imports it. Nothing of the client gets out.

What the client and the broker do that forces this shape, each seen on Pulsar 4.0.8 with
pulsar-client 3.13.0:

- One producer a partition, unbatched: the partition is ours to choose (keylane/routing.py), and
  Key_Shared needs one key a batch.
- One consumer a partition: over a reconnect one on the partitioned topic keeps a stale queue.
- No dead-letter policy of the client (it can end the process), no Python logger.
- An exception in a function that the client calls ends the process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import pulsar
import structlog

from keylane.broker import DEFAULT_PREFETCH, OutgoingMessage, Position, Receipt
from keylane.clientlog import client_log_path
from keylane.credentials import Credentials
from keylane.errors import (
    BrokerUnavailable,
    EventTooLarge,
    PublishUnconfirmed,
    SubscriptionBusy,
)
from keylane.knock import not_authorized
from keylane.masking import mask_url
from keylane.routing import partition_of
from keylane.settings import PulsarSettings

log = structlog.get_logger()

#: The shortest that the client takes.
NEGATIVE_ACK_DELAY_MS: Final = 100
#: Sends that a producer keeps waiting for their receipt; what bounds them stands in ingest.
MAX_PENDING: Final = 100_000

_COMPRESSIONS: Final = {
    "none": pulsar.CompressionType.NONE,
    "lz4": pulsar.CompressionType.LZ4,
    "zlib": pulsar.CompressionType.ZLib,
    "zstd": pulsar.CompressionType.ZSTD,
    "snappy": pulsar.CompressionType.SNAPPY,
}
_NOT_AUTHORIZED: Final = (
    pulsar.AuthenticationError,
    pulsar.AuthorizationError,
    pulsar.ErrorGettingAuthenticationData,
)
_OK: Final = pulsar.Result.Ok.value

#: What the client raises, for those who call what it opened.
ClientError: Final = pulsar.PulsarException
TimedOut: Final = pulsar.Timeout


def message_id_of(position: Position) -> Any:
    """The client refuses its own public kind of id, and takes what is inside."""
    return pulsar.MessageId(-1, *position)._msg_id  # noqa: SLF001


def is_ok(result: Any) -> bool:
    return bool(result.value == _OK)


_NOTHING_SENT = frozenset(
    getattr(pulsar.Result, name)
    for name in (
        "MemoryBufferIsFull",
        "NotConnected",
        "ProducerBlockedQuotaExceededError",
        "ProducerBlockedQuotaExceededException",
        "ProducerNotInitialized",
        "ProducerQueueIsFull",
        "TopicTerminated",
    )
)


class Client:
    """One client: its connections, and what is opened on them. Its methods block.

    They raise `BrokerUnavailable`.
    """

    def __init__(self, access: PulsarSettings, credentials: Credentials | None) -> None:
        self._url = mask_url(access.service_url)
        self._compression = _COMPRESSIONS[access.compression]
        self._credentials = credentials
        self._client = pulsar.Client(
            access.service_url,
            authentication=_authentication(access, credentials),
            operation_timeout_seconds=max(1, round(access.operation_timeout_s)),
            connection_timeout_ms=5_000,
            tls_trust_certs_file_path=_path(access.tls_trust_certs),
            tls_certificate_file_path=_path(access.tls_certificate),
            tls_private_key_file_path=_path(access.tls_key),
            tls_validate_hostname=access.tls_validate_hostname,
            # A Python logger would cost nineteen twentieths of the rate.
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, client_log_path()),
        )

    def partitions(self, topic: str) -> list[str]:
        """The topics that are the partitions; the topic itself if it has none."""
        return cast(list[str], self._do(self._client.get_topic_partitions, topic))

    def ask_partitions(self, topic: str, answered: Callable[[int | None], None]) -> None:
        """Ask for their number without blocking; the answer comes on any thread, None for none."""

        def on_answer(result: Any, names: Sequence[str]) -> None:
            answered(len(names) if result == pulsar.Result.Ok else None)

        try:
            self._client._client.get_topic_partitions_async(topic, on_answer)  # noqa: SLF001
        except pulsar.PulsarException:
            answered(None)

    def producer(self, topic: str, send_timeout_s: float, name: str | None = None) -> Any:
        """`send_timeout_s` 0 never gives up."""
        return self._do(
            self._client.create_producer,
            topic,
            producer_name=name,
            send_timeout_millis=math.ceil(send_timeout_s * 1000),
            compression_type=self._compression,
            block_if_queue_full=False,
            max_pending_messages=MAX_PENDING,
        )

    def shared_consumer(
        self, topic: str, subscription: str, name: str, prefetch: int = DEFAULT_PREFETCH
    ) -> Any:
        """One of a Key_Shared subscription."""
        return self._do(
            self._client.subscribe,
            topic,
            subscription,
            consumer_type=pulsar.ConsumerType.KeyShared,
            consumer_name=name,
            receiver_queue_size=prefetch,
            negative_ack_redelivery_delay_ms=NEGATIVE_ACK_DELAY_MS,
            initial_position=pulsar.InitialPosition.Earliest,
        )

    def only_consumer(self, topic: str, subscription: str, name: str) -> Any:
        """The only one of a subscription; raises `SubscriptionBusy` if there is another."""
        return self._do(
            self._client.subscribe,
            topic,
            subscription,
            consumer_type=pulsar.ConsumerType.Exclusive,
            consumer_name=name,
            receiver_queue_size=1,
            initial_position=pulsar.InitialPosition.Earliest,
        )

    def reader(self, topic: str, listener: Callable[[Any, Any], None]) -> Any:
        """From now on; `listener` is called on the client's thread."""
        latest = pulsar.MessageId.latest
        return self._do(self._client.create_reader, topic, latest, reader_listener=listener)

    def reader_behind(self, topic: str, after: Position | None, *, compacted: bool = False) -> Any:
        """Behind a position, or from the earliest message.

        `compacted` gives of each key the latest, at least.
        """
        start = pulsar.MessageId.earliest
        if after is not None:
            # With another number the last message of a partition would count as one that is ahead.
            _, _, number = topic.rpartition("-partition-")
            start = pulsar.MessageId(int(number) if number.isdecimal() else -1, *after)
        return self._do(self._client.create_reader, topic, start, is_read_compacted=compacted)

    def _do(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self._credentials is not None:
            # Asked for here because this can say what is wrong; the client asks again itself.
            self._credentials.token()
        try:
            return function(*args, **options)
        except _NOT_AUTHORIZED as error:
            raise not_authorized(self._url, str(error)) from error
        except pulsar.ConsumerBusy as error:
            raise SubscriptionBusy from error
        except pulsar.ProducerBusy as error:
            raise BrokerUnavailable(
                f"The broker at {self._url} has a publisher of that name on that topic; nothing "
                "was done. End the other one, or give this one another name."
            ) from error
        except pulsar.PulsarException as error:
            raise BrokerUnavailable(
                f"The broker at {self._url} did not answer ({error}); nothing was done. "
                "Start it, or set KEYLANE_PULSAR__SERVICE_URL."
            ) from error

    def close(self) -> None:
        close_all([self._client])

    def shut_down(self) -> None:
        """Close its connections at once and tell nobody; does not block."""
        with contextlib.suppress(pulsar.PulsarException):
            self._client.shutdown()


def _authentication(access: PulsarSettings, credentials: Credentials | None) -> Any:
    if credentials is not None:
        return pulsar.AuthenticationToken(_supplier(credentials))
    if access.tls_certificate is not None:
        return pulsar.AuthenticationTLS(str(access.tls_certificate), str(access.tls_key))
    return None


def _supplier(credentials: Credentials) -> Callable[[], str]:
    def token() -> str:
        try:
            return credentials.token()
        except Exception as error:  # noqa: BLE001  here it would end the process
            log.error("token.missing", error=str(error))  # noqa: TRY400  no traceback needed
            return ""

    return token


def _path(path: object) -> str | None:
    return None if path is None else str(path)


def close_all(closables: Iterable[Any]) -> None:
    """Close what the client opened; blocks."""
    for closable in closables:
        # What is closed already, or can't be told of it, is as good as closed. Of a reader that was
        # closed before the client says `ValueError`.
        with contextlib.suppress(pulsar.PulsarException, ValueError):
            closable.close()


@dataclass(frozen=True, slots=True)
class ProducerOptions:
    """`send_timeout_s` 0 is none; `name` None lets the broker give one."""

    send_timeout_s: float
    name: str | None = None


class Producers:
    """A producer for each partition of one topic, on a client of their own."""

    def __init__(self, client: Client, topic: str, options: ProducerOptions) -> None:
        self._client = client
        self._topic = topic
        self._options = options
        self._opened: list[Any] = []
        self._producers: list[Any] = []

    @property
    def partitions(self) -> int:
        return len(self._producers)

    def reach(self) -> None:
        """Return if the broker answers; blocks. Raises `BrokerUnavailable`."""
        self._client.partitions(self._topic)

    def open_missing(self) -> None:
        """Open a producer for each partition that has none; blocks.

        Raises `BrokerUnavailable`.
        """
        names = self._client.partitions(self._topic)
        for name in names[len(self._opened) :]:
            producer = self._client.producer(name, self._options.send_timeout_s, self._options.name)
            self._opened.append(producer)
        # All at once: with some of the partitions keys would go elsewhere.
        self._producers = list(self._opened)

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        """As `keylane.broker.Publisher` has it; `done` may be forgotten after a `shut_down`."""
        producers = self._producers
        producer = producers[partition_of(message.key, len(producers))]

        def confirmed(result: Any, message_id: Any) -> None:
            done(receipt_of(result, message_id))

        try:
            # What `Producer.send_async` does, without its checks and its call for each property:
            # with ingest's eight they are half of what a send costs in Python (6 us of 14).
            producer._producer.send_async(outgoing(message), confirmed)  # noqa: SLF001
        except pulsar.PulsarException as error:
            done(BrokerUnavailable(f"The broker's client refused to send: {error}"))

    def is_connected(self) -> bool:
        return bool(self._producers) and all(p.is_connected() for p in self._producers)

    def ask_partitions(self, answered: Callable[[int | None], None]) -> None:
        self._client.ask_partitions(self._topic, answered)

    def close(self) -> None:
        """Blocks until the broker knows, or the client gives up."""
        opened, self._opened, self._producers = self._opened, [], []
        close_all(opened)
        self._client.close()

    def shut_down(self) -> None:
        """Close the connections at once, whatever is unsent; does not block."""
        self._client.shut_down()


def outgoing(message: OutgoingMessage, sequence: int | None = None) -> Any:
    """The client's message; with a `sequence` where the publisher is deduplicated by it."""
    builder = pulsar._pulsar.MessageBuilder().content(message.value)  # noqa: SLF001  as above
    if message.properties:
        builder.properties(message.properties)
    if message.key:
        builder.partition_key(message.key)
    if message.event_time_ms:
        builder.event_timestamp(message.event_time_ms)
    if sequence is not None:
        builder.sequence_id(sequence)
    return builder.build()


def receipt_of(result: Any, message_id: Any) -> Receipt:
    """What the client's answer to a send says."""
    # Comparing the client's enumeration takes 1.2 us, its number 0.2.
    if result.value == _OK:
        return message_id.ledger_id(), message_id.entry_id(), message_id.batch_index()
    if result == pulsar.Result.MessageTooBig:
        return EventTooLarge()
    if result in _NOTHING_SENT:
        return BrokerUnavailable(f"The broker took no event ({result}); nothing was stored.")
    return PublishUnconfirmed(
        f"The broker sent no receipt ({result}); the event may or may not be stored."
    )
