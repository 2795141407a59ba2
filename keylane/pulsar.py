"""The broker's port on pulsar-client; the only module that imports it.

What the client and the broker do that forces this shape, each seen on Pulsar 4.0.8 with
pulsar-client 3.13.0:

- One client for publishing and one for consuming: an error on a send closes the connection that
  all producers and consumers of the client share.
- One producer a partition, unbatched: the partition is ours to choose (keylane/routing.py), and
  Key_Shared needs one key a batch.
- One consumer a partition: over a reconnect one on the partitioned topic keeps a stale queue.
- A thread a consumer that blocks for the first message and then drains, and wakes the event loop
  once a batch: about ten times the rate of a listener or of the client's own asyncio.
- Negative acknowledgements only in bursts (keylane/broker.py says how far apart): each call re-arms
  the client's timer, so that calls closer together postpone every redelivery for ever.
- No dead-letter policy of the client (it can end the process), no Python logger.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import pulsar
import structlog

from keylane.broker import DEFAULT_PREFETCH, Deliver, OutgoingMessage, Position, Receipt, Received
from keylane.clientlog import client_log_path
from keylane.errors import BrokerUnavailable, EventTooLarge, PublishUnconfirmed
from keylane.names import channel_topic, full_topic, partition_topic
from keylane.pulsarchannel import PulsarChannel
from keylane.pulsarmessage import PulsarMessage
from keylane.routing import partition_of

log = structlog.get_logger()

#: Messages handed to the event loop at once: long enough to spare wake-ups, short enough (some
#: 5 ms of work) that timers and attempts of others are served in between.
MAX_BATCH: Final = 500
#: How long a receive blocks before it looks whether it should stop.
RECEIVE_TIMEOUT_MS: Final = 200
#: The shortest that the client takes.
NEGATIVE_ACK_DELAY_MS: Final = 100
#: How often a paused consumer's thread looks whether its connection is lost.
PAUSE_CHECK_S: Final = 0.02
#: How long a thread waits before it receives again after the client refused.
RECEIVE_RETRY_S: Final = 1.0
#: How often a publisher looks for partitions that were added.
PARTITIONS_CHECK_S: Final = 60.0
#: Sends that a producer keeps waiting for their receipt; what bounds them stands in ingest.
MAX_PENDING: Final = 100_000

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


class PulsarPublisher:
    """A producer for each partition of one topic."""

    def __init__(self, client: Any, topic: str, send_timeout_s: float) -> None:
        self._client = client
        self._topic = topic
        self._send_timeout_ms = max(1, round(send_timeout_s * 1000))
        self._opened: list[Any] = []
        self._producers: list[Any] = []
        self._growing: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Notice partitions that are added from now on."""
        self._growing = asyncio.create_task(self._watch_partitions())

    def open_missing(self) -> None:
        """Open a producer for each partition that has none; blocks."""
        names = self._client.get_topic_partitions(self._topic)
        for name in names[len(self._opened) :]:
            producer = self._client.create_producer(
                name,
                send_timeout_millis=self._send_timeout_ms,
                batching_enabled=False,
                block_if_queue_full=False,
                max_pending_messages=MAX_PENDING,
            )
            self._opened.append(producer)
        # All at once: with some of the partitions keys would go elsewhere.
        self._producers = list(self._opened)

    async def _watch_partitions(self) -> None:
        while True:
            await asyncio.sleep(PARTITIONS_CHECK_S)
            before = len(self._producers)
            try:
                await asyncio.to_thread(self.open_missing)
            except pulsar.PulsarException as error:
                log.warning("partitions.unknown", topic=self._topic, error=str(error))
            if len(self._producers) > before:
                log.warning("partitions.added", topic=self._topic, partitions=len(self._producers))

    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        producers = self._producers
        if not producers:
            done(BrokerUnavailable("The publisher is closed; nothing was sent."))
            return
        producer = producers[partition_of(message.key, len(producers))]

        def confirmed(result: Any, message_id: Any) -> None:
            done(_receipt(result, message_id))

        try:
            producer.send_async(
                message.value,
                confirmed,
                properties=message.properties,
                partition_key=message.key or None,
                event_timestamp=message.event_time_ms or None,
            )
        except pulsar.PulsarException as error:
            done(BrokerUnavailable(f"The broker's client refused to send: {error}"))

    def is_connected(self) -> bool:
        return bool(self._producers) and all(p.is_connected() for p in self._producers)

    async def close(self) -> None:
        if self._growing:
            self._growing.cancel()
        opened, self._opened, self._producers = self._opened, [], []
        await asyncio.to_thread(_close_all, [*opened, self._client])


def _receipt(result: Any, message_id: Any) -> Receipt:
    if result == pulsar.Result.Ok:
        return message_id.ledger_id(), message_id.entry_id(), message_id.batch_index()
    if result == pulsar.Result.MessageTooBig:
        return EventTooLarge()
    if result in _NOTHING_SENT:
        return BrokerUnavailable(f"The broker took no event ({result}); nothing was stored.")
    return PublishUnconfirmed(
        f"The broker sent no receipt ({result}); the event may or may not be stored."
    )


def _close_all(closables: Iterable[Any]) -> None:
    for closable in closables:
        # What the broker closed already, or can't be told of, is as good as closed.
        with contextlib.suppress(pulsar.PulsarException):
            closable.close()


class PulsarConsumer:
    """One partition's consumer and the thread that receives from it."""

    def __init__(self, consumer: Any, partition: int, deliver: Deliver) -> None:
        self._consumer = consumer
        self._partition = partition
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._closing = threading.Event()
        self._is_open = threading.Event()
        self._is_open.set()
        # One batch is with the loop and at most one more in the thread's hands.
        self._may_hand_over = threading.Semaphore(1)
        self._waiting: tuple[list[PulsarMessage], int] | None = None
        # Counts the connections that were lost: a batch from before a loss may not be ours now.
        self._losses = 0
        self._was_connected = True
        self._thread = threading.Thread(
            target=self._receive, name=f"receive-{partition}", daemon=True
        )
        self._thread.start()

    @property
    def partition(self) -> int:
        return self._partition

    def is_connected(self) -> bool:
        is_connected = not self._is_closed and cast(bool, self._consumer.is_connected())
        if self._was_connected and not is_connected:
            self._losses += 1
        self._was_connected = is_connected
        return is_connected

    def _receive(self) -> None:
        while not self._is_closed:
            if not self._is_open.wait(PAUSE_CHECK_S):
                self._drop_stale()
                continue
            try:
                batch = self._receive_batch()
            except pulsar.PulsarException as error:
                if not self._closing.wait(RECEIVE_RETRY_S):
                    log.warning("receive.failed", partition=self._partition, error=str(error))
                continue
            losses = self._losses
            # What was received without a connection is sent again after it is back.
            if batch and self._consumer.is_connected():
                self._may_hand_over.acquire()
                self._loop.call_soon_threadsafe(self._hand_over, batch, losses)

    def _drop_stale(self) -> None:
        """Empty the client's queue while the connection is lost.

        The client does that too, but says that it is connected a moment before.
        """
        with contextlib.suppress(pulsar.PulsarException):
            while not self._consumer.is_connected():
                self._consumer.receive(0)

    def _receive_batch(self) -> list[PulsarMessage]:
        """Wait for a message, then take what else is there; empty when none came in time."""
        receive = self._consumer.receive
        batch: list[PulsarMessage] = []
        try:
            batch.append(PulsarMessage(receive(RECEIVE_TIMEOUT_MS)))
            while len(batch) < MAX_BATCH:
                batch.append(PulsarMessage(receive(0)))
        except pulsar.Timeout:
            pass
        return batch

    def _hand_over(self, batch: list[PulsarMessage], losses: int) -> None:
        if not self._is_open.is_set():
            self._waiting = (batch, losses)
            return
        try:
            if self.is_connected() and losses == self._losses:
                self._deliver(self._partition, batch)
        finally:
            self._may_hand_over.release()

    def pause(self) -> None:
        self._is_open.clear()

    def resume(self) -> None:
        self._is_open.set()
        if self._waiting is not None:
            (batch, losses), self._waiting = self._waiting, None
            # Not from within the caller's step: it may be in the middle of a batch itself.
            self._loop.call_soon(self._hand_over, batch, losses)

    def acknowledge(self, messages: Iterable[Received]) -> None:
        acknowledge = self._consumer.acknowledge
        try:
            for message in messages:
                acknowledge(cast(PulsarMessage, message).raw)
        except pulsar.PulsarException as error:
            # The broker sends them again, and they are acknowledged then.
            log.warning("acknowledge.failed", partition=self._partition, error=str(error))

    def negative_acknowledge(self, positions: Sequence[Position]) -> None:
        try:
            for position in positions:
                # The client refuses its own public kind of id, and takes what is inside.
                self._consumer.negative_acknowledge(pulsar.MessageId(-1, *position)._msg_id)  # noqa: SLF001
        except pulsar.PulsarException as error:
            # Without a connection all of it is sent again after the reconnect anyway.
            log.warning("redelivery.failed", partition=self._partition, error=str(error))

    async def confirm(self) -> None:
        # Its answer comes behind whatever the broker has said before, also that we are removed.
        losses = self._losses
        answer: asyncio.Future[Any] = self._loop.create_future()

        def answered(result: Any, _: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                self._loop.call_soon_threadsafe(_set_unless_done, answer, result)

        try:
            self._consumer._consumer.get_last_message_id_async(answered)  # noqa: SLF001
        except pulsar.PulsarException as error:
            raise BrokerUnavailable(f"The broker's client refused to ask: {error}") from error
        result = await answer
        if result != pulsar.Result.Ok or not self.is_connected() or losses != self._losses:
            raise BrokerUnavailable(f"The broker did not answer ({result}).")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._closing.set()
        self._is_open.set()
        self._may_hand_over.release()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(_close_all, [self._consumer])


def _set_unless_done(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


class PulsarBroker:
    """A session with Pulsar: a client for publishing and one for consuming, opened when needed."""

    def __init__(
        self,
        service_url: str,
        *,
        token: str | None = None,
        operation_timeout_s: float = 10.0,
        send_timeout_s: float = 10.0,
    ) -> None:
        self._service_url = service_url
        self._token = token
        self._operation_timeout_s = operation_timeout_s
        self._send_timeout_s = send_timeout_s
        self._publishing: Any = None
        self._consuming: Any = None
        self._opened: list[PulsarPublisher | PulsarConsumer | PulsarChannel] = []

    def _client(self) -> Any:
        return pulsar.Client(
            self._service_url,
            authentication=pulsar.AuthenticationToken(self._token) if self._token else None,
            operation_timeout_seconds=max(1, round(self._operation_timeout_s)),
            connection_timeout_ms=5_000,
            tls_validate_hostname=True,
            # A Python logger would cost nineteen twentieths of the rate.
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, client_log_path()),
        )

    async def partitions(self, topic: str) -> int:
        client = self._client()
        try:
            names = await self._call(client.get_topic_partitions, full_topic(topic))
        finally:
            await asyncio.to_thread(_close_all, [client])
        return len(names) if names != [full_topic(topic)] else 0

    async def publisher(self, topic: str) -> PulsarPublisher:
        # With a client of its own, so that one whose reconnecting hangs can be replaced.
        publisher = PulsarPublisher(self._client(), full_topic(topic), self._send_timeout_s)
        try:
            await self._call(publisher.open_missing)
        except BrokerUnavailable:
            await publisher.close()
            raise
        publisher.watch()
        self._opened.append(publisher)
        return publisher

    async def subscribe(
        self,
        topic: str,
        partition: int,
        subscription: str,
        consumer_name: str,
        deliver: Deliver,
        *,
        prefetch: int = DEFAULT_PREFETCH,
    ) -> PulsarConsumer:
        self._consuming = self._consuming or self._client()
        consumer = await self._call(
            self._consuming.subscribe,
            partition_topic(topic, partition),
            subscription,
            consumer_type=pulsar.ConsumerType.KeyShared,
            consumer_name=consumer_name,
            receiver_queue_size=prefetch,
            negative_ack_redelivery_delay_ms=NEGATIVE_ACK_DELAY_MS,
            initial_position=pulsar.InitialPosition.Earliest,
        )
        self._opened.append(opened := PulsarConsumer(consumer, partition, deliver))
        return opened

    async def channel(self, name: str, hear: Callable[[bytes], None]) -> PulsarChannel:
        self._publishing = self._publishing or self._client()
        self._consuming = self._consuming or self._client()
        channel = PulsarChannel(hear)
        self._opened.append(channel)
        clients = self._publishing, self._consuming
        await self._call(channel.open, *clients, channel_topic(name), pulsar.MessageId.latest)
        return channel

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return await asyncio.to_thread(function, *args, **options)
        except pulsar.PulsarException as error:
            raise BrokerUnavailable(
                f"The broker at {self._service_url} did not answer ({error}); nothing was done. "
                "Start it, or set KEYLANE_PULSAR__SERVICE_URL."
            ) from error

    async def close(self) -> None:
        opened, self._opened = self._opened, []
        await asyncio.gather(*(o.close() for o in opened))
        clients = self._consuming, self._publishing
        self._consuming = self._publishing = None
        await asyncio.to_thread(_close_all, [c for c in clients if c is not None])
