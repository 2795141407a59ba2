"""The yardstick of the latency: the broker's part of the way, from a send to the receipt.

By the bare client at the same rate: unbatched producers, one Key_Shared consumer.
"""

from __future__ import annotations

import threading
import time
from array import array
from typing import Any

import msgspec
import pulsar

from bench.errors import BenchError
from bench.events import number_in, payload, user
from bench.parts import child
from keylane.names import full_topic, partition_topic
from keylane.routing import partition_of

_RECEIVED_WITHIN_MS = 10_000


class Options(msgspec.Struct):
    service_url: str
    topic: str
    subscription: str
    partitions: int
    users: int
    rate: float
    count: int


class Result(msgspec.Struct):
    """Moments on the steady clock, by event."""

    due: list[float]
    sent: list[float]
    received: list[float]


def _receive_all(consumer: Any, received: array[float]) -> None:
    for _ in range(len(received)):
        message = consumer.receive(_RECEIVED_WITHIN_MS)
        received[number_in(message.data())] = time.monotonic()
        consumer.acknowledge(message)


def _send_all(producers: list[Any], options: Options) -> tuple[list[float], list[float]]:
    due, sent = [], []
    began = time.monotonic() + 0.1
    for number in range(options.count):
        at = began + number / options.rate
        time.sleep(max(0.0, at - time.monotonic()))
        key = user(number, options.users)
        due.append(at)
        sent.append(time.monotonic())
        producer = producers[partition_of(key, options.partitions)]
        producer.send_async(payload(number), _ignore, partition_key=key)
    return due, sent


def _ignore(_result: Any, _message_id: Any) -> None:
    """What is not confirmed is not received either, and that is noticed."""


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    consuming = child.pulsar_client(options.service_url)
    try:
        consumer = consuming.subscribe(
            full_topic(options.topic),
            options.subscription,
            consumer_type=pulsar.ConsumerType.KeyShared,
            initial_position=pulsar.InitialPosition.Latest,
        )
        producers = [
            client.create_producer(
                partition_topic(options.topic, partition), batching_enabled=False
            )
            for partition in range(options.partitions)
        ]
        received = array("d", bytes(8 * options.count))
        receiving = threading.Thread(target=_receive_all, args=(consumer, received))
        receiving.start()
        due, sent = _send_all(producers, options)
        receiving.join()
    finally:
        client.close()
        consuming.close()
    if not all(received):
        raise BenchError("an event was not received")
    return Result(due, sent, received.tolist())


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
