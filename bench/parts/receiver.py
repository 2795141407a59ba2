"""The receiver of webhooks: answers 200 at once and notes when which event arrived.

Told by lines on standard input: `Expect` is answered when so many events have arrived since,
`Take` with the numbers and moments of all that did since the last `Expect`, `Count` at once.
An event's number says whether it fails or is answered late; such events are only counted.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from array import array
from typing import TypeAlias, cast

import httptools
import msgspec
import uvloop
from typing_extensions import override

from bench.events import FAILING, SLOW, number_in
from bench.machine import cpu_s
from bench.parts import child

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_DOWN = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
_FAILURE = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"


class Options(msgspec.Struct):
    host: str
    #: After so long what is slow is answered.
    slow_s: float = 0.0


class Listening(msgspec.Struct):
    port: int


class Expect(msgspec.Struct, tag=True):
    #: 0 for no word of it.
    count: int
    #: Whose CPU is measured from the first arrival to the last; 0 for nobody's.
    pid: int = 0
    #: Events with lower numbers are left over from before and aren't noted.
    first: int = 0


class Take(msgspec.Struct, tag=True):
    pass


class Count(msgspec.Struct, tag=True):
    pass


class Turn(msgspec.Struct, tag=True):
    """Answer 503 to everything from now on, or no longer. Told with the attempts until then."""

    is_down: bool


Order: TypeAlias = Expect | Take | Count | Turn


class Arrived(msgspec.Struct):
    """From the first arrival to the last that was expected."""

    seconds: float
    cpu_s: float
    watched_cpu_s: float | None


class Taken(msgspec.Struct):
    numbers: list[int]
    moments: list[float]


class Counted(msgspec.Struct):
    """Arrivals since the last `Expect`, and attempts since the start."""

    arrived: int
    failed: int
    slow: int


class Turned(msgspec.Struct):
    """Attempts that were answered 503 so far, and the highest number that one of them had."""

    refused: int
    last_attempt: int


class Log:
    """All arrivals since the last `Expect`."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._moments = array("d")
        self._expected = Expect(0)
        self._cpu: tuple[float, float] = 0.0, 0.0
        self.failed = 0
        self.slow = 0
        self.is_down = False
        self.refused = 0
        self.last_attempt = 0

    def obey(self, order: Order) -> None:
        match order:
            case Take():
                child.tell(Taken(self._numbers.tolist(), self._moments.tolist()))
            case Count():
                child.tell(Counted(self.arrived, self.failed, self.slow))
            case Turn():
                self.is_down = order.is_down
                child.tell(Turned(self.refused, self.last_attempt))
            case Expect():
                self._expected = order
                self._numbers, self._moments = array("q"), array("d")

    @property
    def arrived(self) -> int:
        return len(self._numbers)

    def arrive(self, number: int) -> None:
        if number < self._expected.first:
            return
        self._moments.append(time.monotonic())
        self._numbers.append(number)
        count = len(self._numbers)
        if count == 1:
            self._cpu = self._cpu_now()
        if count == self._expected.count:
            self._tell_arrived()

    def refuse(self, attempt: int) -> None:
        self.refused += 1
        self.last_attempt = max(self.last_attempt, attempt)

    def _cpu_now(self) -> tuple[float, float]:
        return time.process_time(), cpu_s(self._expected.pid)

    def _tell_arrived(self) -> None:
        own, watched = (b - a for a, b in zip(self._cpu, self._cpu_now(), strict=True))
        child.tell(Arrived(self._moments[-1] - self._moments[0], own, watched))


class _Connection(asyncio.Protocol):
    def __init__(self, log: Log, slow_s: float) -> None:
        self._log = log
        self._slow_s = slow_s
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._attempt = 0
        self._transport: asyncio.WriteTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    @override
    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"keylane-attempt":
            self._attempt = int(value)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        number = number_in(self._body)
        self._body = b""
        if self._log.is_down:
            self._log.refuse(self._attempt)
            self._answer(_DOWN)
        elif number < FAILING:
            self._log.arrive(number)
            self._answer(_ANSWER)
        elif number < SLOW:
            self._log.failed += 1
            self._answer(_FAILURE)
        else:
            self._log.slow += 1
            asyncio.get_running_loop().call_later(self._slow_s, self._answer, _ANSWER)

    def _answer(self, answer: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(answer)


async def _run(options: Options) -> None:
    loop = asyncio.get_running_loop()
    log = Log()
    server = await loop.create_server(
        lambda: _Connection(log, options.slow_s), options.host, 0, backlog=1024
    )
    child.tell(Listening(server.sockets[0].getsockname()[1]))

    def listen_to_parent() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(log.obey, msgspec.json.decode(line, type=Order))
        os._exit(0)

    threading.Thread(target=listen_to_parent, daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_run(child.begin(Options)))
