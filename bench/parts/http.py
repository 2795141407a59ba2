"""Clients that post the same bodies, 64 at once, each on one event loop or none.

`keylane` is our webhook destination with everything that an attempt does but the signature;
`aiohttp` is a bare session; `pycurl` is libcurl with its own loop, as little as there can be around
it; `pycurl on asyncio` is libcurl with the event loop that pycurl brings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Literal, TypeAlias

import aiohttp
import msgspec
import pycurl
import uvloop

from bench.errors import BenchError
from bench.events import payload, user
from bench.parts import child
from dispatch.delivery import Delivery
from dispatch.destinations.webhook import WebhookDestination
from dispatch.garbage import defer_full_collections
from dispatch.outcome import Delivered
from keylane.broker import Position
from keylane.event import Event, new_event_id, to_message

BODY_BYTES: Final = 330
_USERS: Final = 300
_HEADERS: Final = {"content-type": "application/json"}

Client: TypeAlias = Literal["keylane", "aiohttp", "pycurl", "pycurl on asyncio"]


class Options(msgspec.Struct):
    client: Client
    url: str
    count: int
    concurrency: int


class Result(msgspec.Struct):
    seconds: float
    cpu_s: float


class _Message(msgspec.Struct):
    """What a broker hands over."""

    key: str
    payload: bytes
    attributes: dict[str, str]
    position: Position
    event_time_ms: int
    redelivery_count: int = 0
    publish_time_ms: int = 0

    def value(self) -> bytes:
        return self.payload

    def properties(self) -> dict[str, str]:
        return self.attributes


def _body(number: int) -> bytes:
    return payload(number).ljust(BODY_BYTES)


def _delivery(number: int) -> Delivery:
    now_ms = time.time_ns() // 1_000_000
    sent = to_message(
        Event(new_event_id(), user(number, _USERS), _body(number), accepted_at_ms=now_ms)
    )
    message = _Message(sent.key, sent.value, dict(sent.properties), (7, number, -1), now_ms)
    return Delivery(message, 0, 1)


class _Watch:
    """Seconds and CPU of this process since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> Result:
        began, cpu_s = self._began
        return Result(time.perf_counter() - began, time.process_time() - cpu_s)


async def _at_once(concurrency: int, run: Callable[[], Awaitable[None]]) -> Result:
    watch = _Watch()
    await asyncio.gather(*[run() for _ in range(concurrency)])
    return watch.read()


async def _keylane(options: Options) -> Result:
    deliveries = iter([_delivery(number) for number in range(options.count)])
    destination = WebhookDestination(options.url, timeout_s=30, concurrency=options.concurrency)

    async def attempts() -> None:
        for delivery in deliveries:
            outcome = await destination.attempt(delivery)
            if not isinstance(outcome, Delivered):
                raise BenchError(outcome.reason)

    result = await _at_once(options.concurrency, attempts)
    await destination.close()
    return result


async def _aiohttp(options: Options) -> Result:
    bodies = iter([_body(number) for number in range(options.count)])
    connector = aiohttp.TCPConnector(limit=options.concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def posts() -> None:
            for body in bodies:
                async with session.post(options.url, data=body, headers=_HEADERS) as answer:
                    await answer.read()
                    _check(answer.status)

        return await _at_once(options.concurrency, posts)


async def _pycurl_on_asyncio(options: Options) -> Result:
    bodies = iter([_body(number) for number in range(options.count)])
    async with pycurl.AsyncCurlMulti() as multi:

        async def posts() -> None:
            curl = _handle(options.url)
            for body in bodies:
                curl.setopt(pycurl.POSTFIELDS, body)
                await multi.perform(curl)
                _check(curl.getinfo(pycurl.RESPONSE_CODE))

        return await _at_once(options.concurrency, posts)


def _pycurl(options: Options) -> Result:
    bodies = iter([_body(number) for number in range(options.count)])
    multi = pycurl.CurlMulti()
    watch = _Watch()
    idle: list[Any] = [_handle(options.url) for _ in range(options.concurrency)]
    running = 0
    while True:
        running += _start(multi, idle, bodies)
        if not running:
            return watch.read()
        multi.select(1.0)
        multi.perform()
        _, idle, failed = multi.info_read()
        if failed:
            raise BenchError(failed[0][2])
        running -= len(idle)
        for curl in idle:
            _check(curl.getinfo(pycurl.RESPONSE_CODE))
            multi.remove_handle(curl)


def _start(multi: Any, idle: list[Any], bodies: Iterator[bytes]) -> int:
    """How many could be started."""
    started = 0
    for curl, body in zip(idle, bodies, strict=False):
        curl.setopt(pycurl.POSTFIELDS, body)
        multi.add_handle(curl)
        started += 1
    return started


def _handle(url: str) -> Any:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in _HEADERS.items()])
    curl.setopt(pycurl.WRITEFUNCTION, len)
    return curl


def _check(status: int) -> None:
    if status != 200:
        raise BenchError(f"the receiver answered {status}")


def _run(options: Options) -> Result:
    # As a worker does: what is prepared here must not be walked again and again.
    defer_full_collections()
    match options.client:
        case "keylane":
            return uvloop.run(_keylane(options))
        case "aiohttp":
            return uvloop.run(_aiohttp(options))
        case "pycurl on asyncio":
            return uvloop.run(_pycurl_on_asyncio(options))
        case "pycurl":
            return _pycurl(options)


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
