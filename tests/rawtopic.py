"""A topic through Pulsar's own client alone, so that nothing of ours tells what lies on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulsar


@dataclass(frozen=True, slots=True)
class Raw:
    """What was read; `properties` is empty where they are no text."""

    key: str
    value: bytes
    properties: Mapping[str, str]
    position: tuple[int, int, int]
    published_ms: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What is to be sent; a property may be bytes that are no text."""

    key: str
    value: bytes
    properties: Mapping[str, str | bytes] = field(default_factory=dict)


@contextlib.contextmanager
def _client(service_url: str) -> Iterator[Any]:
    client = pulsar.Client(
        service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    try:
        yield client
    finally:
        client.close()


def send_raw(service_url: str, topic: str, messages: Iterable[Sent]) -> None:
    """In this order; all are stored when this returns."""
    with _client(service_url) as client:
        producer = client.create_producer(topic)
        for message in messages:
            builder = pulsar._pulsar.MessageBuilder().content(message.value)
            if message.key:
                builder.partition_key(message.key)
            for name, value in message.properties.items():
                builder.property(name, value)
            producer._producer.send_async(builder.build(), lambda *_: None)
        producer.flush()


def read_raw(service_url: str, topic: str) -> list[Raw]:
    """Everything that is kept, from the earliest; takes none away."""
    with _client(service_url) as client:
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        found = []
        while reader.has_message_available():
            found.append(_raw(reader.read_next(5_000)))
        return found


def drain_raw(service_url: str, topic: str, subscription: str) -> list[Raw]:
    """Acknowledge everything that is there for a subscription; returns it."""
    with _client(service_url) as client:
        consumer = client.subscribe(topic, subscription)
        found = []
        with contextlib.suppress(pulsar.Timeout):
            while True:
                message = consumer.receive(500)
                found.append(_raw(message))
                consumer.acknowledge(message)
        consumer.close()
        return found


def _raw(message: Any) -> Raw:
    place = message.message_id()
    try:
        properties = message.properties()
    except UnicodeDecodeError:
        properties = {}
    return Raw(
        message.partition_key(),
        message.data(),
        properties,
        (place.ledger_id(), place.entry_id(), place.batch_index()),
        message.publish_timestamp(),
    )
