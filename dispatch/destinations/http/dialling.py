"""Opening the sockets of guarded destinations: the last moment, with the very address."""

from __future__ import annotations

import os
import socket
from typing import Any

import pycurl

from dispatch.destinations.http.guard import Guard


class _Opened:
    """A socket to hand over: it is duplicated, and this one is closed without a warning."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


class Dialling:
    """The addresses that one attempt was to call. A name may have several: those let through
    are tried, the others aren't."""

    __slots__ = ("_guard", "objections", "tried")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.objections: list[str] = []
        self.tried = 0

    def reset(self) -> None:
        self.objections.clear()
        self.tried = 0

    @property
    def is_forbidden(self) -> bool:
        """Whether there was an address, and none was let through."""
        return bool(self.objections) and not self.tried

    def open(self, _purpose: int, address: Any) -> Any:
        """libcurl's `CURLOPT_OPENSOCKETFUNCTION`."""
        family, kind, protocol, place = address
        if family not in (socket.AF_INET, socket.AF_INET6):
            self.objections.append("it is no internet address")
            return pycurl.SOCKET_BAD
        if objection := self._guard.objection(place[0]):
            self.objections.append(objection)
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:
            # A family that this machine lacks, or no descriptor left; libcurl tries the next.
            self.tried += 1
            return pycurl.SOCKET_BAD
        self.tried += 1
        return _Opened(opened.detach())
