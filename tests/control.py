"""The control arm: the same subscription without lanes, failures negatively acknowledged at once.

It is as careful as that way allows: attempts of one user follow each other in the order of arrival,
never two at a time. What reorders is the redelivery alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import aiohttp

from keylane.broker import REDELIVERY_BURST, REDELIVERY_INTERVAL_S, Consumer, Received
from keylane.pulsar import PulsarBroker

CONCURRENCY = 64


class PlainConsumer:
    """Attempts every message as it comes, and asks for those again that failed."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http
        self._consumers: dict[int, Consumer] = {}
        self._failed: dict[int, list[Received]] = defaultdict(list)
        self._users: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._room = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(self, broker: PulsarBroker, topic: str, subscription: str) -> None:
        for partition in range(await broker.partitions(topic)):
            self._consumers[partition] = await broker.subscribe(
                topic, partition, subscription, "plain", self._deliver
            )

    def _deliver(self, partition: int, messages: Sequence[Received]) -> None:
        for message in messages:
            task = asyncio.create_task(self._attempt(partition, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _attempt(self, partition: int, message: Received) -> None:
        headers = {
            "keylane-attempt": str(message.redelivery_count + 1),
            "keylane-position": f"{partition}:{message.position[0]}:{message.position[1]}",
        }
        async with (
            self._users[message.key],
            self._room,
            self._http.post(self._url, data=message.value(), headers=headers) as answer,
        ):
            if answer.ok:
                self._consumers[partition].acknowledge([message])
            else:
                self._failed[partition].append(message)

    async def ask_again(self) -> None:
        """Negatively acknowledge what failed, for ever, as often as the client can bear it."""
        while True:
            await asyncio.sleep(REDELIVERY_INTERVAL_S)
            for partition, failed in self._failed.items():
                if failed:
                    again = [message.position for message in failed[:REDELIVERY_BURST]]
                    self._consumers[partition].negative_acknowledge(again)
                    del failed[:REDELIVERY_BURST]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def plain_consumer(
    service_url: str, topic: str, subscription: str, url: str
) -> AsyncIterator[None]:
    """Deliver a topic that way while the context lasts."""
    async with aiohttp.ClientSession() as http:
        broker = PulsarBroker(service_url)
        consumer = PlainConsumer(url, http)
        try:
            await consumer.subscribe(broker, topic, subscription)
            asking = asyncio.create_task(consumer.ask_again())
            yield
            asking.cancel()
        finally:
            await broker.close()
            await consumer.end()
