"""A dead letter as it lies on its topic, with what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Self

from keylane.broker import Position, Received
from keylane.event import DEFAULT_TYPE, rfc3339
from keylane.names import WHOLE, partition_topic
from keylane.place import EntryId, origin_id
from keylane.redriven import ORIGIN_MESSAGE_ID, REAL_TOPIC, origin_of
from operate.when import milliseconds

#: What the reason is called of a dead letter that another program put there.
UNKNOWN: Final = "unknown"


class Place(NamedTuple):
    """On the dead-letter topic; `part` is its partition, `WHOLE` where it has none."""

    part: int
    position: Position

    @property
    def entry(self) -> tuple[int, EntryId]:
        return self.part, EntryId.of(self.position)

    @property
    def is_shared(self) -> bool:
        """Whether others may lie in the same entry."""
        return self.position[2] >= 0

    @property
    def text(self) -> str:
        """`ledger:entry`, with the partition in front and the index in a batch behind, if any."""
        ledger, entry, index = self.position
        part = f"{self.part}:" if self.part != WHOLE else ""
        return f"{part}{ledger}:{entry}" + (f":{index}" if index >= 0 else "")


class Origin(NamedTuple):
    """Where the event itself lies on the main topic."""

    partition: int
    position: Position


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """`origin` is None where it names no place on the main topic.

    `at_ms` is when it was last attempted, or when it came there if nobody says; `event_at_ms` when
    the event was accepted. `message` holds the payload; it is None where that is not needed.
    """

    place: Place
    user: str
    id: str
    type: str
    reason: str
    attempts: int
    status: int | None
    at_ms: int
    event_at_ms: int
    origin: Origin | None
    message: Received | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, message: Received, part: int, topic: str) -> Self:
        """`topic` is the main topic."""
        place = Place(part, message.position)
        properties = properties_of(message)
        return cls(
            place=place,
            user=message.key,
            id=properties.get("ce_id")
            or properties.get(ORIGIN_MESSAGE_ID)
            or origin_id(part, place.position),
            type=properties.get("ce_type") or DEFAULT_TYPE,
            reason=properties.get("keylane-reason") or UNKNOWN,
            attempts=_number(properties, "keylane-attempts") or 0,
            status=_number(properties, "keylane-last-status"),
            at_ms=milliseconds(properties.get("keylane-last-attempt-at", ""))
            or message.publish_time_ms,
            event_at_ms=message.event_time_ms or message.publish_time_ms,
            origin=origin_on(topic, properties),
            message=message,
        )

    def bare(self) -> DeadLetter:
        """Without what it takes memory to keep."""
        return replace(self, message=None)

    @property
    def content(self) -> Received:
        if self.message is None:
            raise RuntimeError("this dead letter was read without its payload")
        return self.message

    @property
    def at(self) -> str:
        return rfc3339(self.at_ms)


def properties_of(message: Received) -> dict[str, str]:
    """None where they are no text: they are not ours then."""
    try:
        return message.properties()
    except UnicodeDecodeError:
        return {}


def origin_on(topic: str, properties: Mapping[str, str]) -> Origin | None:
    """Where the event lies on this topic; None if it doesn't say, or lies somewhere else."""
    found = origin_of(properties)
    if found is None or found[0] < 0 or min(found[1][:2]) < 0:
        return None
    real = properties.get(REAL_TOPIC)
    if real is not None and real != partition_topic(topic, found[0]):
        return None
    return Origin(*found)


class Number(NamedTuple):
    """Under which publisher of a redrive, by its suffix, and which number, it is stored once."""

    publisher: str
    value: int


def number_of(origin: Origin | None, place: Place) -> Number:
    """Grows with the place of the event in its partition; else with that of the dead letter.

    Even: the odd number above it is that of an end mark behind it.
    """
    # With it comes the client, which reading the command line does not need.
    from keylane.pulsarlog import sequence_of

    if origin is not None:
        return Number(str(origin.partition), 2 * sequence_of(origin.position))
    part = "" if place.part == WHOLE else f"-{place.part}"
    return Number(f"foreign{part}", 2 * sequence_of(place.position))


def _number(properties: Mapping[str, str], name: str) -> int | None:
    text = properties.get(name, "")
    return int(text) if text.isdecimal() else None
