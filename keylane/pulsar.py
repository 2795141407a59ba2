"""The broker's port on Pulsar.

One client for each publisher and one for consuming: an error on a send closes the connection that
all producers and consumers of a client share, and a publisher's client can be replaced alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from pydantic import SecretStr

from keylane.broker import DEFAULT_PREFETCH, Deliver, Position
from keylane.credentials import credentials_of
from keylane.errors import BrokerUnavailable
from keylane.knock import why_shut_out
from keylane.names import channel_topic, full_topic, partition_topic
from keylane.pulsarchannel import PulsarChannel
from keylane.pulsarclient import Client, ProducerOptions, Producers
from keylane.pulsarconsumer import PulsarConsumer
from keylane.pulsarpublisher import PATIENCE_S, PulsarPublisher
from keylane.pulsarreader import TableReader
from keylane.pulsarreceiver import Receiver
from keylane.pulsartable import PulsarTable
from keylane.settings import PulsarSettings
from keylane.tls import broker_context


class PulsarBroker:
    """A session with Pulsar; clients are opened when needed.

    `of` gives one with all that can be set. Both raise `ConfigurationError` when a certificate or
    a key can't be used.
    """

    def __init__(
        self,
        service_url: str,
        *,
        token: str | None = None,
        operation_timeout_s: float = 10.0,
        send_timeout_s: float = 10.0,
        access: PulsarSettings | None = None,
    ) -> None:
        self._access = access or PulsarSettings(
            service_url=service_url,
            token=SecretStr(token) if token else None,
            operation_timeout_s=operation_timeout_s,
        )
        self._send_timeout_s = send_timeout_s
        self._credentials = credentials_of(self._access)
        self._context = broker_context(self._access)
        self._saying: Client | None = None
        self._consuming: Client | None = None
        self._opened: list[PulsarPublisher | PulsarConsumer | PulsarChannel | PulsarTable] = []

    @classmethod
    def of(cls, access: PulsarSettings, *, send_timeout_s: float = 10.0) -> Self:
        """As the settings say. `send_timeout_s` is for a publisher that does not deduplicate."""
        return cls(access.service_url, send_timeout_s=send_timeout_s, access=access)

    def _client(self) -> Client:
        return Client(self._access, self._credentials)

    async def partitions(self, topic: str) -> int:
        client = self._client()
        try:
            names = await self._call(client.partitions, full_topic(topic))
        finally:
            await asyncio.to_thread(client.close)
        return len(names) if names != [full_topic(topic)] else 0

    async def publisher(
        self, topic: str, *, name: str | None = None, deduplicate: bool = False
    ) -> PulsarPublisher:
        options = ProducerOptions(0 if deduplicate else self._send_timeout_s, name)

        def make() -> Producers:
            return Producers(self._client(), full_topic(topic), options)

        publisher = PulsarPublisher(make, topic, patience_s=PATIENCE_S if deduplicate else 0)
        await self._explained(publisher.open())
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
            self._consuming.shared_consumer,
            partition_topic(topic, partition),
            subscription,
            consumer_name,
            prefetch,
        )
        self._opened.append(opened := PulsarConsumer(Receiver(consumer), partition, deliver))
        return opened

    async def channel(self, name: str, hear: Callable[[bytes], None]) -> PulsarChannel:
        self._saying = self._saying or self._client()
        self._consuming = self._consuming or self._client()
        channel = PulsarChannel(hear)
        self._opened.append(channel)
        await self._call(channel.open, self._saying, self._consuming, channel_topic(name))
        return channel

    async def table(self, topic: str, hear: Callable[[str, bytes], None]) -> PulsarTable:
        def open_reader(after: Position | None) -> TableReader:
            return TableReader(self._client(), full_topic(topic), after)

        publisher = await self.publisher(topic)
        self._opened.remove(publisher)  # it is the table's now
        table = PulsarTable(publisher, open_reader, hear)
        try:
            await self._explained(table.open())
        except BaseException:
            await table.close()
            raise
        self._opened.append(table)
        return table

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._explained(asyncio.to_thread(function, *args))

    async def _explained(self, call: Any) -> Any:
        try:
            return await call
        except BrokerUnavailable as error:
            found = await why_shut_out(self._access, self._credentials, self._context)
            if found is None:
                raise
            raise found from error

    async def close(self) -> None:
        opened, self._opened = self._opened, []
        await asyncio.gather(*(o.close() for o in opened))
        clients = self._consuming, self._saying
        self._consuming = self._saying = None
        for client in clients:
            if client is not None:
                await asyncio.to_thread(client.close)
