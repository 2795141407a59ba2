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
    """Not taken now; worth another attempt. `retry_after_s` is the destination's own wish."""

    reason: str
    status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Not taken, and never will be."""

    reason: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """The message can't be put into this destination's form, so nothing was sent."""

    reason: str
    status: None = None


Outcome: TypeAlias = Delivered | Unavailable | Refused | Malformed
