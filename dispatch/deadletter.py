"""An event given up, on its way to the dead-letter topic.

Published by ourselves, under Pulsar's native name and with its native properties: the client's own
dead-letter policy can end the process. The caller acknowledges the event only after the receipt.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from dispatch.delivery import Delivery
from dispatch.outcome import Failure
from keylane.broker import Broker, OutgoingMessage, Publisher, Receipt
from keylane.errors import BrokerError, PublishUnconfirmed
from keylane.event import rfc3339
from keylane.names import dead_letter_topic, partition_topic
from keylane.place import origin_id
from keylane.redriven import ORIGIN_MESSAGE_ID, REAL_TOPIC

#: Error texts are cut there: properties count towards the broker's limit of a message.
MAX_ERROR_CHARACTERS: Final = 1_000
#: And what a destination answered there; more is not read of it either.
MAX_ANSWER_CHARACTERS: Final = 16 * 1024


@dataclass(slots=True)
class AttemptHistory:
    """What is remembered of an event's attempts by this worker; times in ms since 1970.

    `unconfirmed` counts publishes to the dead-letter topic that brought no receipt. `is_untried`
    says that it was given up without the attempt that would have been next.
    """

    first_at_ms: int = 0
    last_at_ms: int = 0
    last_status: int | None = None
    last_error: str = ""
    last_answer: str = ""
    given_up_because: str = ""
    unconfirmed: int = 0
    is_untried: bool = False


def remember(context: object, outcome: Failure) -> AttemptHistory:
    """The history in an entry's context, or a new one, with this attempt in it."""
    now_ms = time.time_ns() // 1_000_000
    history = context if isinstance(context, AttemptHistory) else AttemptHistory(first_at_ms=now_ms)
    history.last_at_ms = now_ms
    history.last_status = outcome.status
    history.last_error = outcome.reason
    history.last_answer = outcome.answer
    return history


def dead_letter(
    delivery: Delivery, history: AttemptHistory, topic: str, subscription: str
) -> OutgoingMessage:
    """Same key, value and properties as the event, and what became of it."""
    message = delivery.message
    try:
        properties = message.properties()
    except UnicodeDecodeError:
        # They are why it is dead-lettered; the original is named by its id.
        properties = {}
    if not delivery.is_once_more or ORIGIN_MESSAGE_ID not in properties:
        properties[REAL_TOPIC] = partition_topic(topic, delivery.partition)
        properties[ORIGIN_MESSAGE_ID] = origin_id(delivery.partition, message.position)
    properties |= {
        "REAL_SUBSCRIPTION": subscription,
        "keylane-reason": history.given_up_because,
        "keylane-attempts": str(delivery.attempt - history.is_untried),
        "keylane-first-attempt-at": _at(history.first_at_ms),
        "keylane-last-attempt-at": _at(history.last_at_ms),
        "keylane-last-status": "" if history.last_status is None else str(history.last_status),
        "keylane-last-error": history.last_error[:MAX_ERROR_CHARACTERS],
    }
    if history.last_answer:
        properties["keylane-last-answer"] = history.last_answer[:MAX_ANSWER_CHARACTERS]
    return OutgoingMessage(message.key, message.value(), properties, message.event_time_ms)


def _at(ms: int) -> str:
    return rfc3339(ms) if ms else ""


class DeadLetters:
    """The dead-letter topic of one destination; opened when it is first needed."""

    def __init__(self, broker: Broker, topic: str, subscription: str, timeout_s: float) -> None:
        self._broker = broker
        self._topic = topic
        self._subscription = subscription
        self._timeout_s = timeout_s
        self._publisher: Publisher | None = None
        self._opening = asyncio.Lock()

    async def publish(self, delivery: Delivery, history: AttemptHistory) -> None:
        """Return when the broker has confirmed it; raises `BrokerError` if it did not."""
        message = dead_letter(delivery, history, self._topic, self._subscription)
        publisher = await self._open()
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[Receipt] = loop.create_future()

        def settle(receipt: Receipt) -> None:
            if not confirmed.done():
                confirmed.set_result(receipt)

        def on_receipt(receipt: Receipt) -> None:
            loop.call_soon_threadsafe(settle, receipt)

        publisher.send(message, on_receipt)
        try:
            # The client's own timeout never comes while the broker keeps answering with errors.
            async with asyncio.timeout(self._timeout_s):
                receipt = await confirmed
        except TimeoutError as error:
            raise PublishUnconfirmed from error
        if isinstance(receipt, BrokerError):
            raise receipt

    async def _open(self) -> Publisher:
        async with self._opening:
            if self._publisher is None:
                self._publisher = await self._broker.publisher(
                    dead_letter_topic(self._topic, self._subscription)
                )
            return self._publisher
