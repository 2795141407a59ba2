"""One event sent through the broker on a topic of its own, so that no destination ever sees it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, TypeVar

from keylane.admin import PulsarAdmin
from keylane.broker import Broker, Consumer, OutgoingMessage, Publisher, Receipt, Received
from keylane.errors import BrokerError, BrokerUnavailable, KeylaneError
from keylane.names import full_topic, partition_topic
from keylane.topics import ensure_topic
from operate.doctor.seen import CanarySeen

#: Seconds for each step; the policies of a new topic alone take some on a loaded broker.
STEP_WITHIN_S: Final = 10.0
#: Seconds after which the topic of a canary is nobody's any more.
ABANDONED_AFTER_S: Final = 600
_SUBSCRIPTION: Final = "canary"
_KEY: Final = "keylane-canary"
_LOOK_AGAIN_S: Final = 0.05
_NAME: Final = re.compile(r"-canary-([0-9a-f]{8})-[0-9a-f]{6}")

T = TypeVar("T")


def canary_topic(topic: str, now_s: float) -> str:
    """Beside the topic, in its namespace; the name tells when it was made."""
    return f"{full_topic(topic)}-canary-{int(now_s):08x}-{secrets.token_hex(3)}"


def abandoned(topic: str, names: Iterable[str], now_s: float) -> list[str]:
    """Those of the names that are topics of canaries whose end nobody saw to."""
    beginning, found = full_topic(topic), []
    for name in names:
        made = _NAME.fullmatch(name.removeprefix(beginning))
        if made and name.startswith(beginning) and now_s - int(made[1], 16) > ABANDONED_AFTER_S:
            found.append(name)
    return found


async def fly(admin: PulsarAdmin, broker: Broker, topic: str) -> CanarySeen:
    """Publish, receive, give back, receive again and acknowledge; the topic is deleted after.

    Never raises a `KeylaneError`: where it failed is what was looked for.
    """
    flight = _Flight(admin, broker, canary_topic(topic, time.time()))
    try:
        await flight.through()
    except KeylaneError as error:
        flight.error = str(error)
    finally:
        await flight.land()
    return flight.seen()


class _Flight:
    def __init__(self, admin: PulsarAdmin, broker: Broker, topic: str) -> None:
        self._admin = admin
        self._broker = broker
        self._topic = topic
        self._came: asyncio.Queue[Received] = asyncio.Queue()
        self._opened: list[Publisher | Consumer] = []
        self._steps: dict[str, float] = {}
        self._step = ""
        self.error: str | None = None

    async def through(self) -> None:
        admin, broker, topic = self._admin, self._broker, self._topic
        await self._timed("created", ensure_topic(admin, topic, 1), within_s=None)
        consumer = await self._timed(
            "subscribed", broker.subscribe(topic, 0, _SUBSCRIPTION, _SUBSCRIPTION, self._hear)
        )
        self._opened.append(consumer)
        await self._timed("published", self._publish())
        message = await self._timed("received", self._came.get())
        consumer.negative_acknowledge([message.position])
        message = await self._timed("redelivered", self._came.get())
        consumer.acknowledge([message])
        await self._timed("acknowledged", self._until_nothing_is_left())

    async def land(self) -> None:
        """Leave nothing behind, however far it came."""
        for opened in self._opened:
            await opened.close()
        if "created" not in self._steps and self._step != "created":
            return
        # What it found so far matters more than that this failed; the next run tells of it.
        with contextlib.suppress(BrokerError):
            await self._admin.delete_partitioned_topic(self._topic)

    def seen(self) -> CanarySeen:
        failed = self._step if self.error is not None else None
        return CanarySeen(self._topic, self._steps, failed, self.error)

    async def _timed(
        self, step: str, work: Awaitable[T], within_s: float | None = STEP_WITHIN_S
    ) -> T:
        self._step, began = step, time.monotonic()
        try:
            async with asyncio.timeout(within_s):
                result = await work
        except TimeoutError as error:
            raise BrokerUnavailable(f"nothing happened within {within_s:g} s") from error
        self._steps[step] = (time.monotonic() - began) * 1000
        return result

    def _hear(self, _partition: int, messages: Sequence[Received]) -> None:
        for message in messages:
            self._came.put_nowait(message)

    async def _publish(self) -> None:
        publisher = await self._broker.publisher(self._topic)
        self._opened.append(publisher)
        loop = asyncio.get_running_loop()
        receipt: asyncio.Future[Receipt] = loop.create_future()

        def done(found: Receipt) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                loop.call_soon_threadsafe(_set_unless_done, receipt, found)

        publisher.send(OutgoingMessage(_KEY, b'{"keylane": "canary"}'), done)
        found = await receipt
        if isinstance(found, BrokerError):
            raise found

    async def _until_nothing_is_left(self) -> None:
        part = partition_topic(self._topic, 0)
        while True:
            found = await self._admin.subscription_stats(part, _SUBSCRIPTION)
            if found is not None and found["msgBacklog"] == 0:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)


def _set_unless_done(receipt: asyncio.Future[Receipt], found: Receipt) -> None:
    if not receipt.done():
        receipt.set_result(found)
