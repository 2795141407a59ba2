"""A receiver of webhooks that says exactly what it is told, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """What arrived, and on which connection: 1 is the first."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


#: Answers one request; the connection stays open unless it closes it.
Answers: TypeAlias = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawReceiver:
    answer: Answers
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    #: How many of them have ended.
    ended: int = 0
    port: int = 0
    scheme: str = "http"
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await read_request(reader, number)
                self.requests.append(request)
                await self.answer(request, writer)
                await writer.drain()
        self.ended += 1
        writer.close()
        self.tasks.discard(task)


async def read_request(reader: asyncio.StreamReader, number: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.strip().split("\r\n")
    pairs = (field.split(":", 1) for field in rest)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(number, line, headers, body)


def always(answer: bytes) -> Answers:
    async def say(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return say


@contextlib.asynccontextmanager
async def receiving(
    answer: Answers | bytes = OK, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawReceiver]:
    receiver = RawReceiver(always(answer) if isinstance(answer, bytes) else answer)
    server = await asyncio.start_server(receiver.serve, host, 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    receiver.scheme = "https" if tls else "http"
    try:
        yield receiver
    finally:
        server.close()
        for task in list(receiver.tasks):
            task.cancel()
        await asyncio.gather(*receiver.tasks, return_exceptions=True)


def answer_of(status: int, body: bytes = b"", /, **headers: str) -> bytes:
    """The bytes of an answer; `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
