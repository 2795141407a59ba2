"""One request on one of libcurl's easy handles, which are used again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import pycurl

from dispatch.destinations.http.dialling import Dialling
from dispatch.destinations.http.kept import KeptConnections
from dispatch.destinations.http.port import MAX_ANSWER_BYTES, Answer, NoAnswer

_LINE_BREAK: Final = "\r\n"
_EMPTY: Final = (b"\r\n", b"\n")


class Transfer:
    """`options` are set once; a request sets its body and its headers only.

    `fixed` headers go with every request.
    """

    __slots__ = (
        "_body",
        "_fixed",
        "_head",
        "_heard_at",
        "_kept",
        "_may_send",
        "_opened",
        "_progress",
        "curl",
        "dialling",
        "ended",
        "is_cut",
        "is_sent",
        "is_stale",
        "is_withdrawn",
    )

    def __init__(
        self,
        options: dict[int, Any],
        fixed: Sequence[str],
        kept: KeptConnections,
        dialling: Dialling | None,
    ) -> None:
        self.curl = pycurl.Curl()
        #: Addresses that were to be called, where a guard is.
        self.dialling = dialling
        self.ended: asyncio.Future[Answer | NoAnswer] | None = None
        #: Whether the request was handed to a connection.
        self.is_sent = False
        #: Whether the answer was longer than what is kept.
        self.is_cut = False
        #: Whether the connection that was to be used had ended already: nothing was sent.
        self.is_stale = False
        #: Whether it was not to be sent any more when there was a connection.
        self.is_withdrawn = False
        self._fixed = fixed
        self._kept = kept
        #: Sockets that were opened for it.
        self._opened: list[int] = []
        self._head: list[bytes] = []
        self._body = b""
        self._progress = -1.0
        self._heard_at = 0.0
        for option, value in options.items():
            self.curl.setopt(option, value)
        self.curl.setopt(pycurl.HEADERFUNCTION, self._head.append)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._take)
        self.curl.setopt(pycurl.PREREQFUNCTION, self._before_sending)
        self.curl.setopt(pycurl.SOCKOPTFUNCTION, self._opening)
        if dialling is not None:
            self.curl.setopt(pycurl.OPENSOCKETFUNCTION, dialling.open)

    def begin(
        self,
        ended: asyncio.Future[Answer | NoAnswer],
        headers: Sequence[str],
        body: bytes,
        may_send: Callable[[], bool],
    ) -> None:
        self.ended = ended
        self._may_send = may_send
        # All in one: libcurl passes on what it is given, and looks at each piece for what it would
        # say itself. Fifteen pieces cost a tenth of a request.
        self.curl.setopt(pycurl.HTTPHEADER, [_LINE_BREAK.join(headers), *self._fixed])
        self.curl.setopt(pycurl.POSTFIELDS, body)

    def begin_again(self) -> None:
        """The same once more; the connection that had ended is gone."""
        self.is_stale = False

    def forget(self) -> None:
        self.ended = None
        self.is_sent = self.is_cut = self.is_stale = self.is_withdrawn = False
        self._opened.clear()
        self._head.clear()
        self._body = b""
        self._progress = -1.0
        if self.dialling is not None:
            self.dialling.reset()

    def is_whole(self) -> bool:
        """Whether the head has its end; libcurl takes one that breaks off for an answer."""
        head = self._head
        if head and head[-1] in _EMPTY:
            return True
        for line in reversed(head):
            if line in _EMPTY:
                return True  # what is behind it are the trailers
            if line.startswith(b"HTTP/"):
                break
        return False

    def answer(self) -> Answer:
        return Answer(self.curl.getinfo(pycurl.RESPONSE_CODE), self._head.copy(), self._body)

    def seconds(self) -> float:
        """Since it began."""
        return float(self.curl.getinfo(pycurl.TOTAL_TIME))

    def silent_s(self, now: float) -> float:
        """Since when nothing has come or gone; as seen by the calls of this method."""
        if not self.is_sent:
            return 0.0
        info = self.curl.getinfo
        progress = (
            info(pycurl.HEADER_SIZE) + info(pycurl.SIZE_DOWNLOAD_T) + info(pycurl.SIZE_UPLOAD_T)
        )
        if progress != self._progress:
            self._progress, self._heard_at = progress, now
        return now - self._heard_at

    def _before_sending(self, _to: str, own: str, _port: int, own_port: int) -> int:
        """libcurl sends again by itself when a kept connection ends before an answer. The first
        one may have arrived: whether it is tried again is for others to decide. And it doesn't look
        whether a connection that was used within the last second has ended."""
        if self.is_sent:
            return int(pycurl.PREREQFUNC_ABORT)
        if self._opened:
            self._kept.add(self._opened, (own, own_port))
        elif self._kept.has_ended((own, own_port)):
            self.is_stale = True
            return int(pycurl.PREREQFUNC_ABORT)
        if not self._may_send():
            self.is_withdrawn = True
            return int(pycurl.PREREQFUNC_ABORT)
        self.is_sent = True
        return int(pycurl.PREREQFUNC_OK)

    def _opening(self, fd: int, _purpose: int) -> int:
        self._opened.append(fd)
        return int(pycurl.SOCKOPT_OK)

    def _take(self, data: bytes) -> int | None:
        room = MAX_ANSWER_BYTES - len(self._body)
        self._body += data[:room]
        if len(data) <= room:
            return None
        self.is_cut = True
        return 0
