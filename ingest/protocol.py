"""HTTP connections with limits that uvicorn doesn't have: on heads, on silence, on their number.

A sender that is slow on purpose costs a connection for `timeout_s` at most in each state: before
the end of a request's head, while it does not read its answer, and while it still sends the body of
a request that has been answered. The body of a request that has not is timed in the endpoint, which
can answer.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final, cast

import msgspec
import structlog
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingest import problems
from ingest.problems import BAD_REQUEST, HEAD_TOO_LARGE, Kind
from ingest.throttle import Throttle

log = structlog.get_logger()

#: Bytes of a request's line and headers together; other servers take 8 to 64 KiB.
MAX_HEAD_BYTES: Final = 65_536
#: Seconds between two looks at all connections.
LOOK_EVERY_S: Final = 1.0
_QUIET_S: Final = 1.0

_TOO_LARGE: Final = f"A head may have {MAX_HEAD_BYTES} bytes."

_throttle = Throttle(_QUIET_S)


class _RefusedError(Exception):
    """Ends the parsing of what has been refused."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `max_connections` is set on the class that a server uses."""

    max_connections = 20_000

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: Since when a head is awaited that has not ended; None while there is none.
        self._head_since: float | None = None
        self._head_bytes = 0
        self._unread_since: float | None = None
        self._dropping_since: float | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as there
        super().connection_made(transport)
        self._head_since = self.loop.time()
        if len(self.connections) > self.max_connections:
            suppressed = _throttle.suppressed("connections")
            if suppressed is not None:
                log.warning("connection.refused", open=len(self.connections), suppressed=suppressed)
            transport.abort()

    @override
    def data_received(self, data: bytes) -> None:
        if self._head_since is None and self._is_between_requests():
            self._head_since = self.loop.time()
        if self._head_since is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE, _TOO_LARGE)

    def _is_between_requests(self) -> bool:
        cycle: Any = self.cycle  # there is none before the first request
        return cycle is None or (cycle.response_complete is True and not cycle.more_body)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_since is None:
            self._head_since = self.loop.time()

    @override
    def on_headers_complete(self) -> None:
        # What came with the head counts too, up to here; nearly always it is too little anyway.
        if self._head_bytes > MAX_HEAD_BYTES and self._size_of_head() > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE, _TOO_LARGE)
            raise _RefusedError
        self._head_since = None
        self._head_bytes = 0
        super().on_headers_complete()

    def _size_of_head(self) -> int:
        return len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since = self.loop.time()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_since = None

    @override
    def on_response_complete(self) -> None:
        if self.cycle.more_body and not self.transport.is_closing():
            # What still comes is dropped; it has the time that a head has.
            self._dropping_since = self.loop.time()
        super().on_response_complete()

    @override
    def on_message_complete(self) -> None:
        if self.cycle.response_complete:
            self._dropping_since = None
            self.cycle.more_body = False
        super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(BAD_REQUEST, msg)

    def close_if_slow(self, now: float, timeout_s: float) -> None:
        """End what has kept us waiting for longer than that."""
        for since in (self._head_since, self._unread_since, self._dropping_since):
            if since is not None and now - since > timeout_s:
                self.transport.abort()
                return

    def _refuse(self, kind: Kind, detail: str) -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode(problems.describe(kind, detail))
        head = (
            f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}\r\n"
            f"content-type: {problems.MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


async def end_slow_connections(connections: set[Any], timeout_s: float) -> None:
    """Look after a server's connections, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = loop.time()
        for connection in list(connections):
            cast(BoundedProtocol, connection).close_if_slow(now, timeout_s)
