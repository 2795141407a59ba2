"""Events into the topic as ingest lays them out, each noted when it is sent.

Open-loop at a rate, or as fast as the broker takes them. All are made before the first is sent.
"""

from __future__ import annotations

import time
from array import array

import msgspec

from bench.events import user
from bench.parts import child
from bench.parts.producer import Sender, message_of_ingest


class Options(msgspec.Struct):
    service_url: str
    topic: str
    partitions: int
    users: int
    #: Number of the first event.
    first: int
    count: int
    #: Events a second; 0 is as many as go.
    rate: float = 0.0


class Result(msgspec.Struct):
    """Moments on the steady clock, by event."""

    sent: list[float]


def _send(sender: Sender, options: Options) -> Result:
    numbers = range(options.first, options.first + options.count)
    messages = [message_of_ingest(number, user(number, options.users)) for number in numbers]
    sent = array("d")
    began = time.monotonic() + 0.1
    for index, message in enumerate(messages):
        if options.rate:
            time.sleep(max(0.0, began + index / options.rate - time.monotonic()))
        sent.append(time.monotonic())
        sender.send(message)
    sender.wait_confirmed()
    return Result(sent.tolist())


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    try:
        return _send(Sender(client, options.topic, options.partitions), options)
    finally:
        client.close()


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
