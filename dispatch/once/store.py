"""What is remembered of deliveries, and the port of what remembers it.

A name stands for one event at one channel of one destination. Names are hashes: ids and users of
any length or characters fit, and none of them can be read in the store.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from keylane.errors import KeylaneError

#: Bytes of a name: two events with the same one would cost one of them its delivery.
NAME_BYTES: Final = 16


class StoreDown(KeylaneError):  # noqa: N818  named by the fact
    """The store of deliveries does not answer; what was asked of it may be done or not."""


class Mark(StrEnum):
    #: An attempt began; nobody has said how it ended.
    STARTED = "s"
    DELIVERED = "d"
    REFUSED = "r"
    MALFORMED = "m"
    FORBIDDEN = "f"


class Record(msgspec.Struct, array_like=True, frozen=True):
    """What is known under a name: by whose word and since when (Unix time, milliseconds).

    A refusal holds for the message at `position` alone: who sends the event again wants it tried.
    """

    mark: Mark
    who: str
    at_ms: int
    position: str = ""
    status: int | None = None
    reason: str = ""


class Doubt(IntEnum):
    """How likely it is that somebody else has delivered an event in the last moments."""

    #: Its user's last event was here a moment ago, and it was never sent to anybody before.
    NONE = 0
    #: Its user may just have come from another worker.
    UNSEEN = 1
    #: The broker sent it before.
    REDELIVERED = 2


class DeliveryStore(Protocol):
    """Remembers a record for `ttl_s` seconds, and an attempt that began for a shorter time."""

    ttl_s: float
    #: The worker in whose name attempts begin and end.
    who: str

    async def open(self) -> None:
        """Connect and read what has to be read; without it the first `begin` does.

        Raises `StoreDown`. May be called again.
        """
        ...

    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        """Tell what was known of each, and note that an attempt begins where nothing was.

        Raises `StoreDown`.
        """
        ...

    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        """Return when these are remembered; `None` takes back that an attempt began.

        Raises `StoreDown`: some may be remembered, others not.
        """
        ...

    async def close(self) -> None: ...


class Names:
    """Gives names to the events of one destination of one topic."""

    def __init__(self, topic: str, destination: str) -> None:
        self._seed = blake2b(digest_size=NAME_BYTES)
        self._add(self._seed, topic)
        self._add(self._seed, destination)

    def name(self, channel: str, user: str, event_id: str) -> bytes:
        made = self._seed.copy()
        for part in (channel, user, event_id):
            self._add(made, part)
        return made.digest()

    @staticmethod
    def _add(digest: blake2b, part: str) -> None:
        # With its length, or "ab" + "c" would be "a" + "bc".
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8) + data)


def encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def decode(data: bytes) -> Record | None:
    """`None` for what no version of this one wrote: it says nothing about a delivery."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_decoder = msgspec.json.Decoder(Record)


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


def this_process() -> str:
    """This process and no other, also not the one that had its number before."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
