"""A link to the broker that can be cut: a TCP proxy that one worker alone goes through.

A client asks the service URL where a topic is served and then connects to what it is told. So that
it comes back here, the broker's address is replaced by ours in the answers to that question, and in
nothing else. Both have the same length, so the frames stay what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

from operate.broker.ports import FREE_PORTS, HOST, choose_port

#: How a frame's command begins that tells where a topic is: `BaseCommand.type`, LOOKUP_RESPONSE.
_LOOKUP_ANSWER: Final = b"\x08\x18"
_LENGTH_BYTES: Final = 4
#: Frames, or pieces of a stream, that wait in the proxy; more is left to the sender's buffers.
_WAITING: Final = 256
_PIECE_BYTES: Final = 65_536

#: Reads the next piece of a stream; empty at its end.
Read: TypeAlias = Callable[[asyncio.StreamReader], Awaitable[bytes]]


class Proxy:
    """Passes a client's connections on to a broker of this machine, for as long as it may."""

    def __init__(self, broker_port: int) -> None:
        assert broker_port in FREE_PORTS, "or the two addresses differ in length"
        self.port = 0
        #: Seconds that everything takes longer, each way.
        self.delay_s = 0.0
        self._broker_port = broker_port
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"pulsar://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._tasks)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        self.port = choose_port(0, "")
        server = await asyncio.start_server(self._accept, HOST, self.port)
        try:
            yield self
        finally:
            server.close()
            self.mend()
            self.reset()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """From now on nothing arrives, and neither side is told; what is sent waits."""
        self._passes.clear()

    def mend(self) -> None:
        self._passes.set()

    def reset(self) -> None:
        """Break all connections, as seen by both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        broker, to_broker = await asyncio.open_connection(HOST, self._broker_port)
        ends = {to_client, to_broker}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(client, to_broker, _piece))
                both.create_task(self._pass_on(broker, to_client, self._frame))
        except* OSError:
            pass
        finally:
            self._writers -= ends
            for writer in ends:
                writer.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: Read
    ) -> None:
        """Returns never: the end of one direction is the end of the connection."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take_in(reader, waiting, read))
            both.create_task(self._let_out(waiting, writer))

    async def _take_in(
        self, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]], read: Read
    ) -> None:
        data = b"-"
        while data:
            try:
                data = await read(reader)
            except (OSError, asyncio.IncompleteReadError):
                data = b""
            await waiting.put((time.monotonic() + self.delay_s, data))

    async def _let_out(
        self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._passes.wait()
            if not data:
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()

    async def _frame(self, reader: asyncio.StreamReader) -> bytes:
        length = await reader.readexactly(_LENGTH_BYTES)
        body = await reader.readexactly(int.from_bytes(length))
        if body[_LENGTH_BYTES:].startswith(_LOOKUP_ANSWER):
            body = body.replace(_address(self._broker_port), _address(self.port))
        return length + body


async def _piece(reader: asyncio.StreamReader) -> bytes:
    return await reader.read(_PIECE_BYTES)


def _address(port: int) -> bytes:
    return f"{HOST}:{port}".encode()
