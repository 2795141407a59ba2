"""The bodies of answers that are no problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta


class Stored(msgspec.Struct, gc=False):
    """One event that the broker has confirmed."""

    id: str
    user: str


class Accepted(msgspec.Struct):
    """The broker has confirmed every event of the request."""

    accepted: Annotated[int, Meta(description="How many events the request held.")]
    events: Annotated[Sequence[Stored], Meta(description="In the order they were sent.")]


class Alive(msgspec.Struct):
    """The process answers; nothing is said about the broker."""

    status: str
    version: str


class Ready(msgspec.Struct):
    """Whether events can be confirmed now, and what is in the way."""

    ready: bool
    reasons: Sequence[str]
