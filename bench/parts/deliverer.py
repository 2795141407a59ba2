"""The yardstick of delivery over HTTP: receive, POST, acknowledge, and nothing else.

With aiohttp, or with libcurl's multi interface. Without lanes: no order, no retry, no dead letters;
whatever is not answered 200 ends it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import aiohttp
import msgspec
import pulsar
import pycurl
import uvloop

from bench.errors import BenchError
from bench.machine import own_peak_mib
from bench.parts import child

_TYPE = "content-type: application/json"
_OK = 200
_WAIT_S = 0.001
_RECEIVE_MS = 1


class Options(msgspec.Struct):
    service_url: str
    topic: str
    subscription: str
    url: str
    count: int
    concurrency: int
    #: Else aiohttp.
    is_libcurl: bool


class Result(msgspec.Struct):
    """From the first message to the last acknowledgement."""

    cpu_s: float
    seconds: float
    peak_mib: float


def _deliver_with_libcurl(consumer: Any, options: Options) -> None:
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, options.concurrency)
    idle = [_handle(options.url) for _ in range(options.concurrency)]
    running: dict[Any, Any] = {}
    done = 0
    while done < options.count:
        while idle and (message := _next(consumer, 0 if running else _RECEIVE_MS)):
            curl = idle.pop()
            curl.setopt(pycurl.POSTFIELDS, message.data())
            running[curl] = message
            multi.add_handle(curl)
        multi.select(_WAIT_S)
        multi.perform()
        _, ended, failed = multi.info_read()
        for curl in ended:
            if curl.getinfo(pycurl.RESPONSE_CODE) != _OK:
                raise BenchError("the receiver did not answer 200")
            consumer.acknowledge(running.pop(curl))
            multi.remove_handle(curl)
            idle.append(curl)
            done += 1
        if failed:
            raise BenchError(f"a request failed: {failed[0][1:]}")


def _handle(url: str) -> Any:
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.HTTPHEADER, [_TYPE])
    curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    return curl


def _next(consumer: Any, wait_ms: int) -> Any:
    try:
        return consumer.receive(wait_ms)
    except pulsar.Timeout:
        return None


async def _deliver_with_aiohttp(consumer: Any, options: Options) -> None:
    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[Any] = asyncio.Queue()
    room = threading.Semaphore(10 * options.concurrency)

    def receive() -> None:
        for _ in range(options.count):
            room.acquire()
            loop.call_soon_threadsafe(messages.put_nowait, consumer.receive())
        for _ in range(options.concurrency):
            loop.call_soon_threadsafe(messages.put_nowait, None)

    async def post_each(session: aiohttp.ClientSession) -> None:
        headers = {"content-type": "application/json"}
        while message := await messages.get():
            room.release()
            async with session.post(options.url, data=message.data(), headers=headers) as answer:
                await answer.read()
                if answer.status != _OK:
                    raise BenchError(f"the receiver answered {answer.status}")
            consumer.acknowledge(message)

    threading.Thread(target=receive, daemon=True).start()
    connector = aiohttp.TCPConnector(limit=options.concurrency)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        for _ in range(options.concurrency):
            tasks.create_task(post_each(session))


def _run(options: Options) -> Result:
    client = child.pulsar_client(options.service_url)
    consumer = client.subscribe(
        options.topic,
        options.subscription,
        consumer_type=pulsar.ConsumerType.KeyShared,
        initial_position=pulsar.InitialPosition.Earliest,
    )
    began, cpu_began = time.monotonic(), time.process_time()
    if options.is_libcurl:
        _deliver_with_libcurl(consumer, options)
    else:
        uvloop.run(_deliver_with_aiohttp(consumer, options))
    result = Result(time.process_time() - cpu_began, time.monotonic() - began, own_peak_mib())
    client.close()
    return result


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
