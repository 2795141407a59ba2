"""The bodies of answers that are no problem."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from keylane.event import Event


class Stored(msgspec.Struct, gc=False, omit_defaults=True):
    """One event that the broker has confirmed."""

    id: str
    user: str
    duplicate: Annotated[
        bool,
        Meta(description="It was stored before, by a request with the same id; not again now."),
    ] = False


class Accepted(msgspec.Struct):
    """The broker has confirmed every event of the request."""

    accepted: Annotated[int, Meta(description="How many events the request held.")]
    events: Annotated[Sequence[Stored], Meta(description="In the order they were sent.")]


def accepted_body(events: Sequence[Event], duplicates: Collection[int] = ()) -> bytes:
    """The body of the 202 for these events; `duplicates` are the indexes of those stored before."""
    stored = [Stored(event.id, event.user) for event in events]
    for index in duplicates:
        stored[index].duplicate = True
    return msgspec.json.encode(Accepted(len(stored), stored))


class Alive(msgspec.Struct):
    """The process answers; nothing is said about the broker."""

    status: str
    version: str


class Ready(msgspec.Struct):
    """Whether events can be confirmed now, and what is in the way."""

    ready: bool
    reasons: Sequence[str]
