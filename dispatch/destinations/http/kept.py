"""Which socket a kept connection is: libcurl tells only its addresses right before it sends."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from typing import TypeAlias

#: This side's address and port.
Place: TypeAlias = tuple[str, int]


class KeptConnections:
    """By their places, as long as their descriptors mean them."""

    def __init__(self) -> None:
        #: What asks about one socket each: that is done with every request.
        self._polls: dict[Place, select.poll] = {}
        self._places: dict[int, Place] = {}

    def add(self, opened: Iterable[int], place: Place) -> None:
        """Find the one of `opened` that is at `place`; the others were tried in vain."""
        for fd in opened:
            if _port(fd) == place[1]:
                self._polls.pop(self._places.get(fd, place), None)
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                self._places[fd], self._polls[place] = place, poll

    def has_ended(self, place: Place) -> bool:
        """Whether the other side has ended it; false for one that isn't known.

        Nobody has anything to say on a kept connection, so whatever there is to read is its end: of
        TCP, or of TLS, which some servers end first, waiting for an answer to that.
        """
        poll = self._polls.get(place)
        return poll is not None and bool(poll.poll(0))


def _port(fd: int) -> int:
    try:
        borrowed = socket.socket(fileno=fd)
    except OSError:
        return -1
    try:
        return int(borrowed.getsockname()[1])
    except OSError:
        return -1
    finally:
        borrowed.detach()
