"""Open-loop load on ingest: one event a POST, each at its own moment, answered or not.

Whoever waits for answers before sending on leaves out just the requests that would have been slow.
The event loop is the standard one on `select`, whose timers keep to microseconds; uvloop's, to a
millisecond, would be a part of what is measured.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from array import array
from collections import deque
from typing import cast

import msgspec
from typing_extensions import override

from bench.errors import BenchError
from bench.events import body
from bench.parts import child
from bench.wire import AnswerReader, post

_ANSWERED_WITHIN_S = 10.0


class Options(msgspec.Struct):
    host: str
    port: int
    rate: float
    count: int
    #: Number of the first event.
    first: int
    users: int
    connections: int


class Result(msgspec.Struct):
    """Moments on the steady clock, by event: when it was to be sent, was sent, was answered."""

    due: list[float]
    sent: list[float]
    answered: list[float]
    cpu_s: float


class _Pool:
    """Connections; a request that finds none free waits, and its time runs meanwhile."""

    def __init__(self, options: Options) -> None:
        self._requests = [
            post(options.host, options.port, "/events", body(n, 1, options.users))
            for n in range(options.first, options.first + options.count)
        ]
        self._waiting: deque[int] = deque()
        self._free: list[_Connection] = []
        self.answered = array("d", bytes(8 * options.count))
        self.left = options.count
        self.is_done = asyncio.Event()
        self.failure: str | None = None

    def post(self, index: int) -> None:
        if self._free:
            self._free.pop().write(index, self._requests[index])
        else:
            self._waiting.append(index)

    def release(self, connection: _Connection) -> None:
        if self._waiting:
            index = self._waiting.popleft()
            connection.write(index, self._requests[index])
        else:
            self._free.append(connection)

    def answer(self, index: int, status: int) -> None:
        self.answered[index] = time.monotonic()
        self.left -= 1
        if status != 202:
            self.fail(f"ingest answered {status}")
        if not self.left:
            self.is_done.set()

    def fail(self, why: str) -> None:
        self.failure = self.failure or why
        self.is_done.set()


class _Connection(asyncio.Protocol):
    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._reader = AnswerReader()
        self._index = -1
        self._transport: asyncio.WriteTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # of a TCP connection
        self._pool.release(self)

    def write(self, index: int, request: bytes) -> None:
        assert self._transport is not None
        self._index = index
        self._transport.write(request)

    @override
    def data_received(self, data: bytes) -> None:
        for status in self._reader.feed(data):
            self._pool.answer(self._index, status)
            self._pool.release(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._pool.left:
            self._pool.fail(f"a connection to ingest was lost: {exc}")


async def _run(options: Options) -> Result:
    loop = asyncio.get_running_loop()
    pool = _Pool(options)
    for _ in range(options.connections):
        await loop.create_connection(lambda: _Connection(pool), options.host, options.port)
    cpu_before = time.process_time()
    due, sent = await _post_all(pool, options)
    async with asyncio.timeout(_ANSWERED_WITHIN_S):
        await pool.is_done.wait()
    if pool.failure:
        raise BenchError(pool.failure)
    return Result(due, sent, pool.answered.tolist(), time.process_time() - cpu_before)


async def _post_all(pool: _Pool, options: Options) -> tuple[list[float], list[float]]:
    due, sent = [], []
    began = time.monotonic() + 0.1
    for index in range(options.count):
        at = began + index / options.rate
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        due.append(at)
        sent.append(time.monotonic())
        pool.post(index)
    return due, sent


def _make_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_make_loop) as runner:
        child.tell(runner.run(_run(child.begin(Options))))
