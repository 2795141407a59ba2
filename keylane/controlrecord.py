"""What people and workers say of destinations and their users: the records of the control table.

The table (`keylane.names.control_topic`) is a compacted topic, so what was said last holds for
workers that start later as well. A key is the destination's name, or that and what it is about:

    crm                 the destination wants nothing more (it answered 410, for example)
    crm/paused          nothing is to be attempted
    crm/user/U          user U is held, or waits while U's earlier events are delivered again
    crm/order/U         what is to become of the event at the head of U's lane
    crm/redrive         the last redrive of the dead letters
    crm/replay/ID       a replay

An empty value takes back what was said.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import orjson
from typing_extensions import override

from keylane.errors import ContractError
from keylane.event import rfc3339

#: Takes back what was said under a key.
NOTHING: Final = b""


class About(StrEnum):
    """What a record is about."""

    DESTINATION = ""
    PAUSE = "paused"
    USER = "user"
    ORDER = "order"
    REDRIVE = "redrive"
    REPLAY = "replay"


class Key(NamedTuple):
    """`of` is the user, or the replay's id."""

    destination: str
    about: About
    of: str = ""

    @override
    def __str__(self) -> str:
        # Destinations have no slash in their names; users may.
        return "/".join((self.destination, *filter(None, (self.about.value, self.of))))

    @classmethod
    def read(cls, key: str) -> Self | None:
        """None for a key that is not known, of a later version perhaps."""
        destination, _, rest = key.partition("/")
        about, _, of = rest.partition("/")
        try:
            return cls(destination, About(about), of)
        except ValueError:
            return None


def new_token() -> str:
    """Tells one record from another under the same key."""
    return secrets.token_hex(8)


def now() -> str:
    return rfc3339(time.time_ns() // 1_000_000)


class _Record:
    def encoded(self) -> bytes:
        return orjson.dumps(asdict(self))  # type: ignore[call-overload, unused-ignore]

    @classmethod
    def decoded(cls, value: bytes) -> Self:
        """Raises `ContractError`: anybody may publish there."""
        try:
            found = orjson.loads(value)
            known = {name: found[name] for name in cls.__annotations__ if name in found}
            return cls(**known)
        except (ValueError, TypeError, KeyError) as error:
            raise ContractError(f"this is no {cls.__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Pause(_Record):
    """No attempt starts. `live_only`: but for events that are delivered once more."""

    token: str
    at: str
    live_only: bool = False


class Standing(StrEnum):
    """How a user stands at a destination. Without a record it is as usual."""

    HELD = "held"
    """An event was dead-lettered, and what comes after it goes there too, untried."""
    WAITING = "waiting"
    """Events are being delivered once more; what is live waits until those are done."""


@dataclass(frozen=True, slots=True)
class UserRecord(_Record):
    """How a user stands, and what began it.

    Of the event that was given up: where it lies (`partition:ledger:entry[:index]`), why, and what
    was known of its attempts. `token` is that of the redrive that it waits for. `has_failed` says
    that one of the events of that redrive was given up again, so that the user is held after it.
    """

    standing: str
    at: str
    token: str = ""
    position: str = ""
    reason: str = ""
    attempts: int = 0
    status: int | None = None
    error: str = ""
    has_failed: bool = False


class What(StrEnum):
    """What can be done about the event at the head of a lane."""

    SKIP = "skip"
    DEAD_LETTER = "dead-letter"
    RETRY_NOW = "retry-now"


@dataclass(frozen=True, slots=True)
class Order(_Record):
    """Holds for the event at that position (`partition:ledger:entry[:index]`) and for no other."""

    what: str
    position: str
    token: str
    at: str


def as_json(value: bytes) -> dict[str, Any]:
    """A record of the commands' own, which workers don't read; raises `ContractError`."""
    try:
        found = orjson.loads(value)
    except ValueError as error:
        raise ContractError(f"this is no record: {error}") from error
    if not isinstance(found, dict):
        raise ContractError("this is no record: no object")
    return found
