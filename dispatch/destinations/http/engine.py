"""libcurl's multi interface on the event loop.

libcurl says which sockets it waits for and until when; it is called again when one of them is
ready, or when that time has come. It resolves names on threads of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import pycurl

from dispatch.destinations.http.dialling import Dialling
from dispatch.destinations.http.guard import Guard
from dispatch.destinations.http.kept import KeptConnections
from dispatch.destinations.http.port import Answer, NoAnswer, Trouble
from dispatch.destinations.http.sockets import Sockets, watch_sockets
from dispatch.destinations.http.transfer import Transfer

#: Shorter than what common servers wait (5 s and more) before they close an idle connection: an
#: attempt must not die of a connection that the other side is just closing. In whole seconds.
KEEP_ALIVE_S: Final = 3
#: After so long a connection isn't used again, so that a name that moved is followed under load.
MAX_CONNECTION_S: Final = 300
#: Timers are kept in milliseconds; one that comes a little early is not worth another wake-up.
_TICK_S: Final = 0.001
#: libcurl would ask before it sends a large body, and wait for a word that few servers say.
_NOT_ASKED: Final = "expect:"
#: `CURLOPT_QUICK_EXIT`, which pycurl has no name for.
_QUICK_EXIT: Final = 322


@dataclass(frozen=True, slots=True)
class Limits:
    """`read_timeout_s` is the longest silence once the request is under way; found out up to a
    quarter later. `timeout_s` bounds everything."""

    concurrency: int
    timeout_s: float
    connect_timeout_s: float
    read_timeout_s: float


class LibcurlEngine:
    """One URL's connections; made in a running event loop.

    `options` are libcurl's own for this destination: the URL, TLS, the proxy. `headers` go with
    every request, in libcurl's words.
    """

    def __init__(
        self,
        options: dict[int, int | str | bytes],
        limits: Limits,
        guard: Guard | None = None,
        *,
        headers: Sequence[str] = (),
        watch: Callable[..., Sockets] = watch_sockets,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._guard = guard
        self._options = _fixed_options(limits) | options
        self._headers = (_NOT_ASKED, *headers)
        self._running: dict[pycurl.Curl, Transfer] = {}
        self._idle: list[Transfer] = []
        self._kept = KeptConnections()
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._sweeper: asyncio.TimerHandle | None = None
        self._sockets = watch(self._loop, self._on_ready)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._sockets.watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, limits.concurrency)
        self._multi.setopt(pycurl.M_MAXCONNECTS, limits.concurrency)

    async def post(
        self, headers: Sequence[str], body: bytes, may_send: Callable[[], bool] = lambda: True
    ) -> Answer | NoAnswer:
        transfer = self._idle.pop() if self._idle else self._new_transfer()
        ended: asyncio.Future[Answer | NoAnswer] = self._loop.create_future()
        transfer.begin(ended, headers, body, may_send)
        self._running[transfer.curl] = transfer
        self._multi.add_handle(transfer.curl)
        if self._sweeper is None:
            self._sweep()
        try:
            return await ended
        except asyncio.CancelledError:
            # It may have ended meanwhile, and serve another attempt already.
            if transfer.ended is ended and transfer.curl in self._running:
                self._release(transfer)
            raise

    async def close(self) -> None:
        if self._multi.closed:
            return
        for transfer in list(self._running.values()):
            result = NoAnswer(Trouble.CONNECTION, "closed before an answer", transfer.is_sent)
            self._end(transfer, result)
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        self._multi.close()
        self._sockets.close()
        for transfer in self._idle:
            transfer.curl.close()
        self._idle.clear()

    def _new_transfer(self) -> Transfer:
        dialling = Dialling(self._guard) if self._guard else None
        return Transfer(self._options, self._headers, self._kept, dialling)

    # Driving

    def _on_ready(self, ready: Iterable[tuple[int, int]]) -> None:
        act = self._multi.socket_action
        for fd, mask in ready:
            act(fd, mask)
        self._take_ended()

    def _on_timer(self, timeout_ms: int) -> None:
        """Called at nearly every request, mostly with a later time: the timer is then left as it
        is, and looks again when it fires."""
        if timeout_ms < 0:
            self._due = inf
            return
        self._due = self._loop.time() + timeout_ms / 1000
        if self._due < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due
        self._timer = self._loop.call_at(self._due, self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._due - self._loop.time() <= _TICK_S:
            self._due = inf
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._take_ended()
        elif self._due < inf:
            self._set_timer()

    def _take_ended(self) -> None:
        _, answered, failed = self._multi.info_read()
        for curl in answered:
            transfer = self._running[curl]
            self._end(transfer, transfer.answer() if transfer.is_whole() else _HALF)
        for curl, code, text in failed:
            transfer = self._running[curl]
            if transfer.is_stale:
                self._begin_again(transfer)
            else:
                self._end(transfer, self._failure(transfer, code, text))

    def _begin_again(self, transfer: Transfer) -> None:
        self._multi.remove_handle(transfer.curl)
        transfer.begin_again()
        self._multi.add_handle(transfer.curl)

    def _end(self, transfer: Transfer, result: Answer | NoAnswer) -> None:
        ended = transfer.ended
        self._release(transfer)
        if ended is not None and not ended.done():
            ended.set_result(result)

    def _release(self, transfer: Transfer) -> None:
        del self._running[transfer.curl]
        self._multi.remove_handle(transfer.curl)
        transfer.forget()
        self._idle.append(transfer)

    # Failing

    def _failure(self, transfer: Transfer, code: int, text: str) -> Answer | NoAnswer:
        if transfer.is_cut and code == pycurl.E_WRITE_ERROR:
            return transfer.answer()
        if transfer.is_withdrawn:
            return NoAnswer(Trouble.WITHDRAWN, "withdrawn before it was sent")
        if transfer.dialling is not None and transfer.dialling.is_forbidden:
            return NoAnswer(Trouble.FORBIDDEN, transfer.dialling.objections[0])
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return NoAnswer(Trouble.TIMEOUT, self._which_timeout(transfer), transfer.is_sent)
        if code == pycurl.E_ABORTED_BY_CALLBACK:
            text = "the connection was closed before an answer"
        trouble = _TROUBLES.get(code, Trouble.CONNECTION)
        return NoAnswer(trouble, _CHANCE.sub("", text), transfer.is_sent)

    def _which_timeout(self, transfer: Transfer) -> str:
        if not transfer.is_sent and transfer.seconds() < self._limits.timeout_s:
            return f"no connection within {self._limits.connect_timeout_s:g} s"
        return "no answer within the timeout"

    def _sweep(self) -> None:
        """End what has been silent for too long; stops when nothing runs."""
        now, longest_s = self._loop.time(), self._limits.read_timeout_s
        for transfer in list(self._running.values()):
            if transfer.silent_s(now) >= longest_s:
                text = f"nothing heard for {longest_s:g} s"
                self._end(transfer, NoAnswer(Trouble.TIMEOUT, text, is_sent=True))
        self._sweeper = self._loop.call_later(longest_s / 8, self._sweep) if self._running else None


_HALF: Final = NoAnswer(
    Trouble.CONNECTION, "the connection was closed in the middle of an answer", is_sent=True
)
_TROUBLES: Final = {
    pycurl.E_COULDNT_RESOLVE_HOST: Trouble.NAME,
    pycurl.E_COULDNT_RESOLVE_PROXY: Trouble.NAME,
    pycurl.E_SSL_CONNECT_ERROR: Trouble.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: Trouble.TLS,
    pycurl.E_SSL_CERTPROBLEM: Trouble.TLS,
    pycurl.E_SSL_CIPHER: Trouble.TLS,
    pycurl.E_SSL_CACERT_BADFILE: Trouble.TLS,
    pycurl.E_SSL_ISSUER_ERROR: Trouble.TLS,
    pycurl.E_SSL_ENGINE_INITFAILED: Trouble.TLS,
}
#: What differs from one time to the next, and would make as many reasons.
_CHANCE: Final = re.compile(r" after \d+ ms")


def _fixed_options(limits: Limits) -> dict[int, Any]:
    return {
        pycurl.POST: 1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        # One request a connection at a time: the concurrency is the number of connections.
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.USERAGENT: "keylane",
        pycurl.NOSIGNAL: 1,
        # Closing must not wait for a name that is still being looked up.
        _QUICK_EXIT: 1,
        pycurl.TIMEOUT_MS: _ms(limits.timeout_s),
        pycurl.CONNECTTIMEOUT_MS: _ms(limits.connect_timeout_s),
        pycurl.MAXAGE_CONN: KEEP_ALIVE_S,
        pycurl.MAXLIFETIME_CONN: MAX_CONNECTION_S,
    }


def _ms(seconds: float) -> int:
    # 0 would be no timeout at all; beyond a day libcurl's own arithmetic need not be tried.
    return max(1, min(round(seconds * 1000), 86_400_000))
