"""`pulsar:TOPIC` publishes each event again: same key, payload and properties.

An attempt is delivered when the broker has confirmed it. One that it did not confirm may be stored
all the same, so that topic may hold an event twice; a user's events are in order, for the next is
sent only after this one.
"""

from __future__ import annotations

import asyncio
import contextlib

from dispatch.delivery import Delivery
from dispatch.destinations.opening import Opening
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable, Withdrawn
from keylane.broker import Broker, OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerError, BrokerUnavailable, ContractError, EventTooLarge
from keylane.names import full_topic


class TopicDestination:
    """Publishes to one topic, which is opened with the first attempt."""

    def __init__(self, broker: Broker, topic: str, timeout_s: float) -> None:
        self._broker = broker
        self._topic = topic
        self._timeout_s = timeout_s
        self._publisher: Publisher | None = None
        self._opening = asyncio.Lock()

    async def attempt(self, delivery: Delivery) -> Outcome:
        message = _message(delivery)
        try:
            async with asyncio.timeout(self._timeout_s):
                publisher = await self._open()
                if not delivery.may_begin():
                    return Withdrawn()
                receipt = await _sent(publisher, message)
        except TimeoutError:
            return Unavailable("no receipt within the timeout", may_be_down=True, is_overload=True)
        except BrokerError as error:
            receipt = error
        if isinstance(receipt, EventTooLarge):
            return Refused(str(receipt))
        if isinstance(receipt, BrokerError):
            is_down = isinstance(receipt, BrokerUnavailable)
            return Unavailable(str(receipt), is_down=is_down, may_be_down=not is_down)
        return Delivered()

    async def _open(self) -> Publisher:
        async with self._opening:
            if self._publisher is None:
                self._publisher = await self._broker.publisher(self._topic)
            return self._publisher

    async def close(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher:
            await publisher.close()


async def _sent(publisher: Publisher, message: OutgoingMessage) -> Receipt:
    loop = asyncio.get_running_loop()
    confirmed: asyncio.Future[Receipt] = loop.create_future()

    def settle(receipt: Receipt) -> None:
        if not confirmed.done():
            confirmed.set_result(receipt)

    def on_receipt(receipt: Receipt) -> None:
        # A receipt may come after the end of everything, for an attempt that was cancelled.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, receipt)

    publisher.send(message, on_receipt)
    return await confirmed


def _message(delivery: Delivery) -> OutgoingMessage:
    message = delivery.message
    try:
        properties = message.properties()
    except UnicodeDecodeError as error:
        raise ContractError(f"the message's properties are not UTF-8: {error}") from error
    return OutgoingMessage(message.key, message.value(), properties, delivery.accepted_at_ms)


def open_topic(opening: Opening) -> TopicDestination:
    """Raises `ConfigurationError` for what is no topic."""
    topic = full_topic(opening.to.partition(":")[2])
    return TopicDestination(opening.broker, topic, opening.timeout_s)
