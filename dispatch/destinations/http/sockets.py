"""Watching libcurl's sockets from the event loop.

A transfer announces its socket when it begins to wait and takes it back when it ends: twice a
request. The loop's own `add_reader` costs several times what epoll does, so the loop watches one
epoll, which watches the sockets. Where there is no epoll, the loop watches them itself.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

import pycurl

#: Takes sockets that are ready, with `CSELECT_...` bits.
Ready: TypeAlias = Callable[[Iterable[tuple[int, int]]], None]

_MAX_EVENTS: Final = 256


class Sockets(Protocol):
    """Watches for reading and writing, as libcurl asks for it."""

    def watch(self, what: int, fd: int, *_: object) -> None:
        """libcurl's `CURLMOPT_SOCKETFUNCTION`."""
        ...

    def close(self) -> None: ...


if sys.platform == "linux":
    #: By what libcurl wants to wait for.
    _EVENTS: Final = {
        pycurl.POLL_IN: select.EPOLLIN,
        pycurl.POLL_OUT: select.EPOLLOUT,
        pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
    }
    #: What is broken shows when it is read.
    _READS: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR

    class EpollSockets:
        def __init__(self, loop: asyncio.AbstractEventLoop, ready: Ready) -> None:
            self._loop = loop
            self._ready = ready
            self._epoll = select.epoll()
            self._watched: set[int] = set()
            loop.add_reader(self._epoll.fileno(), self._on_ready)

        def watch(self, what: int, fd: int, *_: object) -> None:
            events = _EVENTS.get(what)
            if events is None:
                if fd in self._watched:
                    self._watched.remove(fd)
                    self._epoll.unregister(fd)
            elif fd in self._watched:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
                self._watched.add(fd)

        def _on_ready(self) -> None:
            self._ready(
                [
                    (
                        fd,
                        (pycurl.CSELECT_IN if events & _READS else 0)
                        | (pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0),
                    )
                    for fd, events in self._epoll.poll(0, _MAX_EVENTS)
                ]
            )

        def close(self) -> None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


class LoopSockets:
    def __init__(self, loop: asyncio.AbstractEventLoop, ready: Ready) -> None:
        self._loop = loop
        self._ready = ready
        self._read: set[int] = set()
        self._written: set[int] = set()

    def watch(self, what: int, fd: int, *_: object) -> None:
        # POLL_REMOVE has neither of the two bits.
        if what & pycurl.POLL_IN:
            self._read.add(fd)
            self._loop.add_reader(fd, self._ready, ((fd, pycurl.CSELECT_IN),))
        elif fd in self._read:
            self._read.remove(fd)
            self._loop.remove_reader(fd)
        if what & pycurl.POLL_OUT:
            self._written.add(fd)
            self._loop.add_writer(fd, self._ready, ((fd, pycurl.CSELECT_OUT),))
        elif fd in self._written:
            self._written.remove(fd)
            self._loop.remove_writer(fd)

    def close(self) -> None:
        for fd in self._read:
            self._loop.remove_reader(fd)
        for fd in self._written:
            self._loop.remove_writer(fd)


def watch_sockets(loop: asyncio.AbstractEventLoop, ready: Ready) -> Sockets:
    """The cheapest way that this system has."""
    return EpollSockets(loop, ready) if sys.platform == "linux" else LoopSockets(loop, ready)
