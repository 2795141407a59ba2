"""A link can be cut, mended, broken and made longer, and a client comes back through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from operate.broker.ports import HOST, choose_port
from tests.chaos.proxy import Proxy
from tests.waiting import until

SHORT_S = 0.2


class Broker:
    """Answers each piece with one frame: the command is the piece, the rest tells an address."""

    def __init__(self) -> None:
        self.port = choose_port(0, "")
        self.heard = b""

    @property
    def address(self) -> bytes:
        return f"pulsar://{HOST}:{self.port}".encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1_000):
            self.heard += piece
            body = len(piece).to_bytes(4) + piece + self.address
            writer.write(len(body).to_bytes(4) + body)
        writer.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    server = await asyncio.start_server(broker.serve, HOST, broker.port)
    yield broker
    server.close()


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.port).serving() as proxy:
        yield proxy


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def asks(self, command: bytes) -> bytes:
        """The rest of the frame that it is answered."""
        self._writer.write(command)
        length = int.from_bytes(await self._reader.readexactly(4))
        return (await self._reader.readexactly(length))[4 + len(command) :]

    async def hears_nothing(self, command: bytes) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.asks(command), SHORT_S)

    async def is_cut_off(self) -> bool:
        try:
            return await self._reader.read(1) == b""
        except OSError:
            return True

    def close(self) -> None:
        self._writer.transport.abort()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(HOST, proxy.port))
    yield client
    client.close()


async def test_only_the_answer_that_tells_where_a_topic_is_names_the_proxy(
    client: Client, proxy: Proxy, broker: Broker
) -> None:
    assert await client.asks(b"\x08\x18 lookup") == proxy.url.encode()
    assert await client.asks(b"\x08\x09 message") == broker.address


async def test_what_is_sent_while_the_link_is_cut_arrives_after_it(
    client: Client, proxy: Proxy, broker: Broker
) -> None:
    await client.asks(b"before")
    proxy.cut()

    await client.hears_nothing(b"meanwhile")
    assert broker.heard == b"before"

    proxy.mend()
    await until(lambda: broker.heard == b"beforemeanwhile")


async def test_nobody_gets_through_a_link_that_is_cut(proxy: Proxy, broker: Broker) -> None:
    proxy.cut()
    late = Client(*await asyncio.open_connection(HOST, proxy.port))

    await late.hears_nothing(b"hello")
    assert broker.heard == b""
    late.close()


async def test_a_reset_breaks_what_is_connected_and_nothing_later(
    client: Client, proxy: Proxy
) -> None:
    await client.asks(b"before")
    proxy.reset()

    assert await client.is_cut_off()
    later = Client(*await asyncio.open_connection(HOST, proxy.port))
    assert await later.asks(b"later")
    later.close()


async def test_a_delay_is_taken_each_way(client: Client, proxy: Proxy) -> None:
    proxy.delay_s = 0.1
    began = time.monotonic()
    await client.asks(b"slow")

    assert 0.2 <= time.monotonic() - began < 5.0


async def test_the_end_of_one_side_ends_the_other(client: Client, proxy: Proxy) -> None:
    await client.asks(b"before")
    client.close()

    await until(lambda: proxy.connections == 0)
