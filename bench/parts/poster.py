"""The yardstick of a worker that delivers over HTTP: the same bodies posted by bare aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import aiohttp
import msgspec
import uvloop

from bench.errors import BenchError
from bench.events import payload
from bench.machine import own_peak_mib
from bench.parts import child


class Options(msgspec.Struct):
    url: str
    count: int
    concurrency: int


class Result(msgspec.Struct):
    cpu_s: float
    peak_mib: float


async def _post_from(session: aiohttp.ClientSession, url: str, payloads: Iterator[bytes]) -> None:
    for data in payloads:
        async with session.post(
            url, data=data, headers={"content-type": "application/json"}
        ) as answer:
            await answer.read()
            if answer.status != 200:
                raise BenchError(f"the receiver answered {answer.status}")


async def _run(options: Options) -> Result:
    connector = aiohttp.TCPConnector(limit=options.concurrency)
    payloads = iter([payload(number) for number in range(options.count)])
    async with aiohttp.ClientSession(connector=connector) as session:
        before = time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(options.concurrency):
                tasks.create_task(_post_from(session, options.url, payloads))
        return Result(time.process_time() - before, own_peak_mib())


if __name__ == "__main__":
    child.tell(uvloop.run(_run(child.begin(Options))))
