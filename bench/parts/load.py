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
from typing import cast

import msgspec
import uvloop
from typing_extensions import override

from bench.events import body
from bench.machine import cpu_s
from bench.parts import child
from bench.wire import AnswerReader, post


class Options(msgspec.Struct):
    host: str
    port: int
    batch: int
    connections: int
    users: int
    warm_s: float
    measure_s: float
    #: Whose CPU is measured beside ours.
    pid: int


class Result(msgspec.Struct):
    requests: int
    seconds: float
    cpu_s: float
    watched_cpu_s: float | None
    #: Anything but 202, by status; 0 is a connection that was lost.
    others: dict[str, int]


@dataclass(slots=True)
class _Tally:
    accepted: int = 0
    others: Counter[int] = field(default_factory=Counter)
    is_over: bool = False


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
            self._transport.write(next(self._requests))

    @override
    def data_received(self, data: bytes) -> None:
        for status in self._reader.feed(data):
            if status == 202:
                self._tally.accepted += 1
            else:
                self._tally.others[status] += 1
            self._post()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self._tally.is_over:
            self._tally.others[0] += 1


def _requests(options: Options) -> Iterator[bytes]:
    bodies = (
        body(first, options.batch, options.users)
        for first in range(0, options.users, options.batch)
    )
    return itertools.cycle([post(options.host, options.port, "/events", b) for b in bodies])


async def _run(options: Options) -> Result:
    loop = asyncio.get_running_loop()
    requests, tally = _requests(options), _Tally()
    transports = [
        (
            await loop.create_connection(
                lambda: _Connection(requests, tally), options.host, options.port
            )
        )[0]
        for _ in range(options.connections)
    ]
    await asyncio.sleep(options.warm_s)
    before = time.monotonic(), tally.accepted, time.process_time(), cpu_s(options.pid)
    await asyncio.sleep(options.measure_s)
    after = time.monotonic(), tally.accepted, time.process_time(), cpu_s(options.pid)
    tally.is_over = True
    # What is under way is answered before the connections close.
    await asyncio.sleep(0.2)
    for transport in transports:
        transport.close()
    seconds, accepted, own, watched = (b - a for a, b in zip(before, after, strict=True))
    others = {str(status): count for status, count in tally.others.items()}
    return Result(int(accepted), seconds, own, watched, others)


if __name__ == "__main__":
    child.tell(uvloop.run(_run(child.begin(Options))))
