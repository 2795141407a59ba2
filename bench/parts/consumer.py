"""The yardstick of a worker that delivers to nothing: the bare client's receive and acknowledge."""

from __future__ import annotations

import time

import msgspec
import pulsar

from bench.machine import own_peak_mib
from bench.parts import child
from keylane.names import full_topic

_RECEIVED_WITHIN_MS = 30_000


class Options(msgspec.Struct):
    service_url: str
    topic: str
    subscription: str
    count: int
    #: Of these, the first ones that are not measured.
    unmeasured: int


class Result(msgspec.Struct):
    """From when the unmeasured ones were acknowledged to the last one."""

    events: int
    seconds: float
    cpu_s: float
    peak_mib: float


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    try:
        consumer = client.subscribe(
            full_topic(options.topic),
            options.subscription,
            consumer_type=pulsar.ConsumerType.KeyShared,
            initial_position=pulsar.InitialPosition.Earliest,
        )
        for _ in range(options.unmeasured):
            consumer.acknowledge(consumer.receive(_RECEIVED_WITHIN_MS))
        began, cpu_before = time.monotonic(), time.process_time()
        measured = options.count - options.unmeasured
        for _ in range(measured):
            consumer.acknowledge(consumer.receive(_RECEIVED_WITHIN_MS))
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu_before
        return Result(measured, seconds, cpu_s, own_peak_mib())
    finally:
        client.close()


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
