"""What a redrive that was killed had sent: read from the topic that it sent to.

The broker remembers by itself the last number of each publisher, but forgets a publisher that was
away for some hours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from keylane.broker import Received
from keylane.names import WHOLE
from keylane.place import origin_id
from keylane.pulsarlog import PulsarLogs
from keylane.redriven import END, ORIGIN_MESSAGE_ID, REAL_TOPIC, REDRIVE, origin_of
from operate.deadletters.letter import (
    DeadLetter,
    Number,
    Place,
    number_of,
    origin_on,
    properties_of,
)
from operate.deadletters.plan import Resend
from operate.when import milliseconds

#: Clocks of two machines may be so far apart.
_MARGIN_MS: Final = 10 * 60 * 1000


@dataclass(slots=True)
class Sent:
    """The numbers of the events that lie there, and the users behind whom an end mark does."""

    numbers: set[Number] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def has(self, one: Resend) -> bool:
        return one.number in self.numbers

    def add(self, message: Received, token: str, topic: str) -> None:
        """`topic` is the main topic; a message of another redrive is passed over."""
        properties = properties_of(message)
        if properties.get(END) == token:
            self.ended.add(message.key)
        elif properties.get(REDRIVE) == token and (found := origin_of(properties)):
            _, position = found
            # A foreign dead letter was given its own place for an origin.
            place = Place(_part_of(properties.get(REAL_TOPIC, "")), position)
            self.numbers.add(number_of(origin_on(topic, properties), place))


async def sent_by(logs: PulsarLogs, redriven: str, topic: str, token: str, since: str) -> Sent:
    """Read the topic of redriven events from when the run began; raises `BrokerError`."""
    sent = Sent()
    began_ms = milliseconds(since)
    reader = await logs.reader(redriven, from_ms=max(0, began_ms - _MARGIN_MS))
    while batch := await reader.read():
        for message in batch:
            sent.add(message, token, topic)
    return sent


def origin_given(letter: DeadLetter, dead_topic: str) -> dict[str, str]:
    """For one that names no place on the main topic: its own on the dead-letter topic."""
    if letter.origin is not None:
        return {}
    part, position = letter.place
    return {REAL_TOPIC: dead_topic, ORIGIN_MESSAGE_ID: origin_id(part, position)}


def _part_of(dead_topic: str) -> int:
    _, partition, number = dead_topic.rpartition("-partition-")
    return int(number) if partition and number.isdecimal() else WHOLE
