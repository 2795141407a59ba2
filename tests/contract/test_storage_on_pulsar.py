"""What the brokers that Keylane starts do about storage that can't be read for a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulsar
import pytest

from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from tests.rawtopic import Sent, send_raw

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

TOPIC = "storage"
#: In turns that fit in a publisher's queue; more than the broker reads ahead.
TURNS, EACH, BYTES = 3, 900, 4_000
#: A log's beginning stays readable, so that the broker takes it for one.
HEADER_BYTES = 1024


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    with start_local_broker(LocalBrokerOptions(data_dir=tmp_path, is_short_lived=True)) as broker:
        yield broker


def received(consumer: Any, at_most: int, within_ms: int) -> int:
    count = 0
    while count < at_most:
        try:
            consumer.acknowledge(consumer.receive(within_ms))
        except pulsar.Timeout:
            break
        count += 1
    return count


def test_a_partition_goes_on_soon_after_its_storage_can_be_read_again(
    broker: LocalBroker, tmp_path: Path
) -> None:
    for _ in range(TURNS):
        messages = [Sent(f"user-{n % 7}", os.urandom(BYTES)) for n in range(EACH)]
        send_raw(broker.service_url, TOPIC, messages)
    # So that nothing is in its memory, and all is in its files.
    broker.restart()
    client = pulsar.Client(
        broker.service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    consumer = client.subscribe(
        TOPIC,
        "crm",
        consumer_type=pulsar.ConsumerType.KeyShared,
        initial_position=pulsar.InitialPosition.Earliest,
        receiver_queue_size=10,
    )
    try:
        before = received(consumer, EACH // 2, 20_000)
        logs = {log: log.read_bytes() for log in tmp_path.glob("bookkeeper/current/*.log")}
        for log in logs:
            os.truncate(log, HEADER_BYTES)
        before += received(consumer, TURNS * EACH, 2_000)
        assert before < TURNS * EACH, "all was in the broker's memory"
        for log, content in logs.items():
            with log.open("r+b") as file:
                file.write(content)

        readable_at = time.monotonic()
        after = received(consumer, 1, 60_000)

        assert after == 1
        assert time.monotonic() - readable_at < 5
        after += received(consumer, TURNS * EACH, 5_000)
        assert before + after >= TURNS * EACH
    finally:
        client.close()
