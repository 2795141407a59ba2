"""What a replay is to publish: counted once, kept in the control table until it is done."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson

from keylane.broker import OutgoingMessage, Position, Received
from keylane.controlrecord import as_json
from keylane.errors import ContractError
from keylane.event import rfc3339
from keylane.moment import moment_ms
from keylane.place import origin_id
from keylane.redriven import replayed
from operate.replaying.window import Wanted
from operate.when import as_asked

#: Replays that are done and still listed, of each destination.
KEPT_REPLAYS: Final = 20


@dataclass(frozen=True, slots=True)
class Part:
    """What of one partition is replayed; `last` is where the last such event lies."""

    partition: int
    events: int
    last: Position


class Tally:
    """Counts what is wanted of one partition, and keeps nothing else of it."""

    def __init__(self, wanted: Wanted, partition: int) -> None:
        self._wanted = wanted
        self._partition = partition
        self._last: Position = (0, 0, 0)
        self.users: set[str] = set()
        self.events = 0
        #: Without a key each is a lane of its own, as when it is delivered for the first time.
        self.without_key = 0
        #: Their properties are no UTF-8, so they can't be copied.
        self.unreadable = 0

    def add(self, message: Received) -> None:
        try:
            if self._wanted.properties_of(message) is None:
                return
        except UnicodeDecodeError:
            self.unreadable += 1
            return
        self.events += 1
        self._last = message.position
        if message.key:
            self.users.add(message.key)
        else:
            self.without_key += 1

    @property
    def part(self) -> Part | None:
        """None if nothing of the partition is wanted."""
        return Part(self._partition, self.events, self._last) if self.events else None


@dataclass(frozen=True, slots=True)
class Count:
    """What was found. `kept_from_ms` is set if a partition begins only within the window."""

    parts: tuple[Part, ...]
    users: int
    without_key: int
    unreadable: int
    kept_from_ms: int | None = None

    @property
    def events(self) -> int:
        return sum(part.events for part in self.parts)

    @classmethod
    def of(cls, tallies: Iterable[Tally], kept_from_ms: int | None) -> Self:
        counted = list(tallies)
        users: set[str] = set()
        # Who was in one partition before the topic grew may be in another since.
        users.update(*(tally.users for tally in counted))
        return cls(
            tuple(part for tally in counted if (part := tally.part)),
            len(users),
            sum(tally.without_key for tally in counted),
            sum(tally.unreadable for tally in counted),
            kept_from_ms,
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """`asked` are the two times as they were asked for. `pause` is the token of its own pause.

    `instead` lets live events wait meanwhile.
    """

    id: str
    wanted: Wanted
    asked: tuple[str, str]
    instead: bool
    count: Count
    started: str
    finished: str | None = None
    pause: str = ""

    def is_asked_again(self, wanted: Wanted, asked: tuple[str, str], *, instead: bool) -> bool:
        """Whether this is what the same command began before, and did not end."""
        return (
            self.finished is None
            and self.asked == asked
            and (self.wanted.user, self.wanted.type) == (wanted.user, wanted.type)
            and self.instead == instead
        )

    def done(self, at: str) -> Replay:
        return replace(self, finished=at)

    def copy_of(
        self, message: Received, properties: Mapping[str, str], topic: str, partition: int
    ) -> OutgoingMessage:
        """The event as it is published once more, with the identity that it had."""
        own = dict(properties)
        # What a foreign message does not say was made of its place and its time.
        if not own.get("ce_id"):
            own["ce_id"] = origin_id(partition, message.position)
        accepted_at_ms = message.event_time_ms or message.publish_time_ms
        origin = (topic, partition, message.position)
        return replayed(message.key, message.value(), own, accepted_at_ms, origin, self.id)

    def as_dict(self) -> dict[str, Any]:
        """For people and programs."""
        return {
            "id": self.id,
            "from": rfc3339(self.wanted.from_ms),
            "to": rfc3339(self.wanted.to_ms),
            "user": self.wanted.user,
            "type": self.wanted.type,
            "instead": self.instead,
            "started": self.started,
            "finished": self.finished,
            "events": self.count.events,
            "users": self.count.users,
            "without_key": self.count.without_key,
            "unreadable": self.count.unreadable,
        }

    def encoded(self) -> bytes:
        parts = [(part.partition, part.events, part.last) for part in self.count.parts]
        return orjson.dumps(
            self.as_dict() | {"asked": self.asked, "pause": self.pause, "parts": parts}
        )

    @classmethod
    def decoded(cls, value: bytes) -> Self:
        """Raises `ContractError`: anybody may publish there."""
        found = as_json(value)
        try:
            ends = moment_ms(found["from"]), moment_ms(found["to"])
            parts = tuple(Part(n, events, _position(at)) for n, events, at in found["parts"])
            since, until = found["asked"]
            return cls(
                found["id"],
                Wanted(*ends, found["user"], found["type"]),
                (since, until),
                found["instead"],
                Count(parts, found["users"], found["without_key"], found["unreadable"]),
                found["started"],
                found["finished"],
                found["pause"],
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ContractError(f"this is no replay: {error}") from error


def _position(found: list[int]) -> Position:
    ledger, entry, index = found
    return ledger, entry, index


def new_id(now_ms: int) -> str:
    """Sorted by the second of its making, and short enough to be typed."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def readable(records: Mapping[str, bytes]) -> dict[str, Replay]:
    """The replays among a destination's records, by id, in the order of their start."""
    found = {}
    for key, value in sorted(records.items()):
        try:
            found[key] = Replay.decoded(value)
        except ContractError:
            # Of a later version, perhaps; it is no concern of a replay that can be read.
            continue
    return found


def to_forget(replays: Mapping[str, Replay]) -> list[str]:
    """The ids of those that were done long ago."""
    done = [key for key, replay in replays.items() if replay.finished]
    return done[:-KEPT_REPLAYS]


def words_of(since: str, until: str | None) -> tuple[str, str]:
    """The two times as they were asked for; the second is empty for "until now"."""
    return as_asked(since), as_asked(until or "")
