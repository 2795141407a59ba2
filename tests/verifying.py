"""A webhook destination that answers as it is told, and whose book tells whether order was kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TypeAlias

import orjson
from aiohttp import web

from tests.judge import Attempt, Book, Numbered
from tests.waiting import until

HOST = "127.0.0.1"
#: Longer than any sender waits.
_HANGS_FOR_S = 600.0
#: What follows it in a request's path names the sender.
_PATH = "/hook"


class Manner(Enum):
    REPLY = "an answer"
    RESET = "the connection reset without an answer"
    HANG = "no answer for as long as the sender waits"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt gets, after a delay."""

    status: int = 200
    delay_s: float = 0.0
    manner: Manner = Manner.REPLY
    headers: Mapping[str, str] = field(default_factory=dict)


OK = Answer()
FAILED = Answer(500)

#: Says what an attempt gets; may be exchanged while the receiver runs.
Plan: TypeAlias = Callable[[Attempt], Answer]


def accept_all(_: Attempt) -> Answer:
    return OK


def fail_share(share: float, seed: int, delay_s: float = 0.0) -> Plan:
    """Fail this share of all attempts: by chance, but the same ones in any order."""

    def plan(attempt: Attempt) -> Answer:
        chance = Random(f"{seed} {attempt.user} {attempt.n} {attempt.seen}")
        return Answer(500 if chance.random() < share else 200, delay_s)

    return plan


def fail_user(user: str, delay_s: float = 0.0) -> Plan:
    """Fail one user for ever."""
    return lambda attempt: Answer(500 if attempt.user == user else 200, delay_s)


def fail_heads(times: int, every: int = 1, delay_s: float = 0.0) -> Plan:
    """Fail the first attempts of every so-manieth event of each user."""

    def plan(attempt: Attempt) -> Answer:
        is_failing = attempt.n % every == 0 and attempt.seen <= times
        return Answer(500 if is_failing else 200, delay_s)

    return plan


#: Reads whose which event it is from the body and the headers.
Read: TypeAlias = Callable[[bytes, Mapping[str, str]], Numbered]


def read_numbered(body: bytes, _: Mapping[str, str]) -> Numbered:
    payload = orjson.loads(body)
    return payload["user"], payload["n"]


class VerifyingReceiver:
    """An HTTP server in the test's own event loop, which therefore must not block.

    It goes on with a request whose sender is gone, as a real one would. With `keeps_requests` its
    attempts keep their headers and bodies.
    """

    def __init__(
        self,
        plan: Plan = accept_all,
        *,
        read: Read = read_numbered,
        keeps_requests: bool = False,
        book: Book | None = None,
    ) -> None:
        self.plan = plan
        self.book = book or Book()
        self.url = ""
        #: What could not be read; an assertion on it is in `receiving`.
        self.unreadable: list[str] = []
        self._read = read
        self._keeps_requests = keeps_requests
        self._is_closing = False
        self._is_shut = False
        self._runner: web.ServerRunner | None = None

    async def delivers(self, count: int, within_s: float = 10.0) -> None:
        """Wait until so many different events were answered 2xx."""
        await until(
            lambda: len(self.book.delivered) >= count,
            within_s,
            lambda: f"{len(self.book.delivered)} of {count} delivered",
        )

    async def attempted(self, user: str, n: int, times: int = 1, within_s: float = 10.0) -> None:
        """Wait until an event was attempted so often."""
        await until(
            lambda: len(self.book.of(user, n)) >= times,
            within_s,
            lambda: self.book.of(user, n),
        )

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if self._is_shut and request.transport is not None:
            request.transport.abort()
            return web.Response(status=500)
        headers = request.headers
        try:
            user, n = self._read(body, headers)
            number = int(headers.get("keylane-attempt", "0"))
        except (ValueError, KeyError, TypeError) as error:
            self.unreadable.append(f"{body[:200]!r}: {error!r}")
            return web.Response(status=400)
        attempt = Attempt(
            user,
            n,
            number,
            position=headers.get("keylane-position", ""),
            started_at=time.monotonic(),
            wall_s=time.time(),
            sender=request.path.removeprefix(_PATH).strip("/"),
        )
        if self._keeps_requests:
            attempt.headers, attempt.body = headers, body
        self.book.start(attempt)
        return await self._answer(request, attempt, self.plan(attempt))

    async def _answer(
        self, request: web.BaseRequest, attempt: Attempt, answer: Answer
    ) -> web.StreamResponse:
        status = 0
        try:
            if answer.delay_s:
                await asyncio.sleep(answer.delay_s)
            if answer.manner is Manner.HANG:
                await until(lambda: request.transport is None or self._is_closing, _HANGS_FOR_S)
            elif answer.manner is Manner.RESET and request.transport is not None:
                request.transport.abort()
            else:
                status = answer.status
        finally:
            # Before the answer leaves: the sender may start the next one as soon as it has it.
            self.book.end(attempt, time.monotonic(), status)
        return web.Response(status=status or 500, headers=answer.headers)

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[VerifyingReceiver]:
        """Serve on a port, any free one by default."""
        server = web.Server(self._take, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port).start()
            self._runner = runner
            self.url = f"http://{HOST}:{runner.addresses[0][1]}{_PATH}"
            yield self
        finally:
            self._is_closing = True
            await runner.cleanup()
        assert not self.unreadable, self.unreadable[:5]

    @contextlib.asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        """Nobody listens on the port while the context lasts.

        What is being answered gets its answer; a request on a connection that is still open is
        cut off unread, so it is no attempt.
        """
        runner = self._runner
        assert runner is not None, "to be used while serving"
        (site,) = runner.sites
        port = runner.addresses[0][1]
        self._is_shut = True
        await site.stop()
        try:
            yield
        finally:
            await web.TCPSite(runner, HOST, port).start()
            self._is_shut = False
