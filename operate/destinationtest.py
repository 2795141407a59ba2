"""One marked event straight to a destination: neither topic nor lanes see it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.kinds import open_destination
from dispatch.outcome import Delivered, Malformed, Outcome, Unavailable
from dispatch.plan import dispatch_of, is_guarded
from keylane.broker import Broker, OutgoingMessage, Position
from keylane.destinationsettings import ChannelSettings, DestinationSettings, OnceSettings
from keylane.errors import ConfigurationError, ContractError
from keylane.event import Event, to_message
from keylane.masking import MASK, mask_url
from keylane.settings import Settings
from operate.exits import DONE, FAILED, TRY_AGAIN

TYPE: Final = "keylane.test"
#: As an extension of the event, so that a webhook gets it as the header `ce-keylanetest`.
MARK: Final = {"keylanetest": "true"}
#: A destination ends an attempt by itself; this is for one that does not.
_MARGIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class TestEvent:
    """The message as a worker would have received it."""

    __test__ = False

    outgoing: OutgoingMessage
    position: Position = (0, 0, -1)
    redelivery_count: int = 0

    @classmethod
    def of(cls, user: str, payload: bytes) -> TestEvent:
        event = Event(
            id=f"test-{uuid.uuid4()}",
            user=user,
            payload=payload,
            type=TYPE,
            accepted_at_ms=time.time_ns() // 1_000_000,
            extensions=MARK,
        )
        return cls(to_message(event))

    @property
    def id(self) -> str:
        return self.outgoing.properties["ce_id"]

    @property
    def key(self) -> str:
        return self.outgoing.key

    @property
    def event_time_ms(self) -> int:
        return self.outgoing.event_time_ms

    @property
    def publish_time_ms(self) -> int:
        return self.outgoing.event_time_ms

    def value(self) -> bytes:
        return self.outgoing.value

    def properties(self) -> dict[str, str]:
        return dict(self.outgoing.properties)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one channel said; nothing in it is secret."""

    channel: str
    to: str
    outcome: str
    status: int | None
    seconds: float
    reason: str
    answer: str


def channels_of(own: DestinationSettings, name: str, channel: str | None) -> dict[str, str]:
    """The addresses that are tested by their channels; '' is the one of a destination without any.

    Raises `ConfigurationError` if there is no such channel.
    """
    places = {key: one.to or "" for key, one in own.channels.items()} or {"": own.to or ""}
    if channel is None:
        return places
    if channel not in own.channels:
        known = f"; it has {', '.join(sorted(own.channels))}" if own.channels else "; it has none"
        raise ConfigurationError(f"Destination '{name}' has no channel '{channel}'{known}.")
    return {channel: places[channel]}


async def test_channel(
    settings: Settings, name: str, channel: str, event: TestEvent, broker: Broker
) -> Answer:
    """Attempt it once, and tell what came of it. Raises `ConfigurationError`."""
    own = _alone(settings.destinations[name], channel)
    settings = settings.model_copy(update={"destinations": {name: own}})
    # A trial of the destination, not of what `reliability` makes of it.
    options = dispatch_of(settings, name).model_copy(update={"reliability": 100.0})
    destination = open_destination(
        name,
        own,
        options,
        is_guarded=is_guarded(settings, name),
        broker=broker,
        topic=settings.topic,
    )
    began = time.perf_counter()
    try:
        async with asyncio.timeout(options.timeout_s + _MARGIN_S):
            outcome = await _attempt(destination, Delivery(event, 0, 1))
    except TimeoutError:
        outcome = Unavailable("no answer within the timeout")
    except ContractError as error:
        outcome = Malformed(str(error))
    finally:
        seconds = time.perf_counter() - began
        await destination.close()
    return _told(channel, own, outcome, seconds)


def _alone(own: DestinationSettings, channel: str) -> DestinationSettings:
    """The destination as if it had this channel only, and remembered nothing."""
    changed: dict[str, Any] = {"once": OnceSettings()}
    if channel:
        one = own.channels[channel]
        changed |= {field: getattr(one, field) for field in ChannelSettings.model_fields}
        changed |= {"channels": {}}
    return own.model_copy(update=changed)


async def _attempt(destination: Destination | ImmediateDestination, delivery: Delivery) -> Outcome:
    if isinstance(destination, ImmediateDestination):
        return destination.attempt_all([delivery])[0]
    return await destination.attempt(delivery)


def _told(channel: str, own: DestinationSettings, outcome: Outcome, seconds: float) -> Answer:
    hidden = sorted(secrets_in(own), key=len, reverse=True)
    reason, answer = "", ""
    if not isinstance(outcome, Delivered):
        reason, answer = masked(outcome.reason, hidden), masked(outcome.answer, hidden)
    return Answer(
        channel=channel,
        to=mask_url(own.to or ""),
        outcome=type(outcome).__name__.lower(),
        status=outcome.status,
        seconds=round(seconds, 3),
        reason=reason,
        answer=answer,
    )


def secrets_in(value: object) -> Iterator[str]:
    """Every secret in these settings, and each part of one that holds several."""
    match value:
        case SecretStr():
            text = value.get_secret_value()
            yield text
            yield from text.split()
        case BaseModel():
            for field in type(value).model_fields:
                yield from secrets_in(getattr(value, field))
        case Mapping():
            for inner in value.values():
                yield from secrets_in(inner)
        case tuple():
            for inner in value:
                yield from secrets_in(inner)
        case _:
            pass


def masked(text: str, hidden: list[str]) -> str:
    """The text without these secrets, which an answer may repeat."""
    for secret in hidden:
        text = text.replace(secret, MASK)
    return text


def exit_code(answers: list[Answer]) -> int:
    """1 if anything was not taken for good, else 75 if not now, else 0."""
    outcomes = {answer.outcome for answer in answers} - {"delivered"}
    if not outcomes:
        return DONE
    return TRY_AGAIN if outcomes == {"unavailable"} else FAILED
