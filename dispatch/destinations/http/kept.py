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
        self._sockets: dict[Place, int] = {}
        self._places: dict[int, Place] = {}
        self._poll = select.poll()

    def add(self, opened: Iterable[int], place: Place) -> None:
        """Find the one of `opened` that is at `place`; the others were tried in vain."""
        for fd in opened:
            if _port(fd) == place[1]:
                self._sockets.pop(self._places.get(fd, place), None)
                self._places[fd], self._sockets[place] = place, fd

    def has_ended(self, place: Place) -> bool:
        """Whether the other side has ended it; false for one that isn't known.

        Nobody has anything to say on a kept connection, so whatever there is to read is its end: of
        TCP, or of TLS, which some servers end first, waiting for an answer to that.
        """
        fd = self._sockets.get(place)
        if fd is None:
            return False
        self._poll.register(fd, select.POLLIN)
        ready = self._poll.poll(0)
        self._poll.unregister(fd)
        return bool(ready)


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
