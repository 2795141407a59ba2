"""Closed-loop load on ingest: each connection has one request at a time, always.

Prebuilt bytes out, statuses counted in; nothing else, so that it takes little of the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, cast

import msgspec
import uvloop
from typing_extensions import override

from bench.events import body
from bench.machine import cpu_s
from bench.parts import child
from bench.wire import AnswerReader, post

_ACCEPTED: Final = 202


class Options(msgspec.Struct):
    host: str
    port: int
    batch: int
    connections: int
    users: int
    #: Whose CPU is measured beside ours.
    pids: list[int]
    #: From the first answer on.
    warm_s: float = 0.0
    #: At least, and until something was answered in it.
    measure_s: float = 0.0
    #: So many requests, instead of as many as are answered in the time.
    requests: int = 0
    #: Each event has an id, which no other has.
    has_ids: bool = False
    #: Number of the first event.
    first: int = 0


class Result(msgspec.Struct):
    requests: int
    seconds: float
    cpu_s: float
    watched_cpu_s: float | None
    #: Anything but 202, by status; 0 is a connection that was lost.
    others: dict[str, int]


@dataclass(slots=True)
class _Tally:
    #: Answers until it is over; -1 is no such number.
    left: int
    accepted: int = 0
    others: Counter[int] = field(default_factory=Counter)
    is_over: bool = False
    all_answered: asyncio.Event = field(default_factory=asyncio.Event)
    #: Or lost.
    any_answered: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, status: int) -> None:
        if status == _ACCEPTED:
            self.accepted += 1
        else:
            self.others[status] += 1
        self.any_answered.set()
        self.left -= 1
        if not self.left:
            self.all_answered.set()

    def note_lost(self) -> None:
        self.others[0] += 1
        self.any_answered.set()
        self.all_answered.set()  # nothing more comes of it


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], tally: _Tally) -> None:
        self._requests = requests
        self._tally = tally
        self._reader = AnswerReader()
        self._transport: asyncio.WriteTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass
        self._post()

    def _post(self) -> None:
        if self._transport and not self._tally.is_over:
            request = next(self._requests, None)
            if request is not None:
                self._transport.write(request)

    @override
    def data_received(self, data: bytes) -> None:
        for status in self._reader.feed(data):
            self._tally.note(status)
            self._post()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._tally.is_over:
            self._tally.note_lost()


def _requests(options: Options) -> Iterator[bytes]:
    def request(first: int) -> bytes:
        events = body(first, options.batch, options.users, has_ids=options.has_ids)
        return post(options.host, options.port, "/events", events)

    requests: Iterator[bytes]
    if options.has_ids:
        requests = map(request, itertools.count(options.first, options.batch))
    else:
        requests = itertools.cycle([request(n) for n in range(0, options.users, options.batch)])
    return itertools.islice(requests, options.requests or None)


class _Mark:
    """Where things stand at a moment, and what happened since an earlier one."""

    def __init__(self, tally: _Tally, pids: list[int]) -> None:
        self._at = time.monotonic()
        self._accepted = tally.accepted
        self._cpu_s = time.process_time()
        self._watched_cpu_s = sum(cpu_s(pid) for pid in pids)

    def since(self, earlier: _Mark, others: dict[str, int]) -> Result:
        return Result(
            self._accepted - earlier._accepted,
            self._at - earlier._at,
            self._cpu_s - earlier._cpu_s,
            self._watched_cpu_s - earlier._watched_cpu_s,
            others,
        )


async def _run(options: Options) -> Result:
    loop = asyncio.get_running_loop()
    requests, tally = _requests(options), _Tally(options.requests or -1)
    at_start = _Mark(tally, options.pids)
    transports = [
        (
            await loop.create_connection(
                lambda: _Connection(requests, tally), options.host, options.port
            )
        )[0]
        for _ in range(options.connections)
    ]
    if options.requests:
        await tally.all_answered.wait()
        began, ended = at_start, _Mark(tally, options.pids)
    else:
        # A server that listens may not serve yet.
        await tally.any_answered.wait()
        await asyncio.sleep(options.warm_s)
        began = _Mark(tally, options.pids)
        tally.any_answered.clear()
        await asyncio.sleep(options.measure_s)
        await tally.any_answered.wait()
        ended = _Mark(tally, options.pids)
    tally.is_over = True
    # What is under way is answered before the connections close.
    await asyncio.sleep(0.2)
    for transport in transports:
        transport.close()
    others = {str(status): count for status, count in tally.others.items()}
    return ended.since(began, others)


if __name__ == "__main__":
    child.tell(uvloop.run(_run(child.begin(Options))))
