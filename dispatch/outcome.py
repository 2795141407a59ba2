"""What an attempt came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination took the event. `status` is its answer's, where it has one."""

    status: int | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Not taken now; worth another attempt. `retry_after_s` is the destination's own wish.

    `is_down` says that it would have failed for anybody: no connection, or an answer that says so.
    `may_be_down` says that it may have: an error of the server, or no answer in time, which one
    user's event can bring about, too. `is_overload` says that fewer attempts at once may help: too
    many requests, or no answer in time. `answer` is what was said, cut.
    """

    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    is_down: bool = False
    may_be_down: bool = False
    is_overload: bool = False
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not taken, and never will be. `answer` is what was said, cut."""

    reason: str
    status: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """The message can't be put into this destination's form, so nothing was sent."""

    reason: str
    status: None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """The destination's address is one that must not be called, so nothing was sent."""

    reason: str
    status: None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Disabled:
    """The destination wants nothing more, from anybody, until a person says otherwise."""

    reason: str
    status: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Nothing was sent, because `Delivery.may_begin` said no; the attempt does not count."""

    reason: str = "the event may be another worker's by now"
    status: None = None
    answer: str = ""


Failure: TypeAlias = Unavailable | Refused | Malformed | Forbidden | Disabled
Outcome: TypeAlias = Delivered | Failure | Withdrawn
