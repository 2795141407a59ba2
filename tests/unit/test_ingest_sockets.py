"""Senders that break the rules of HTTP, or are slow on purpose: nobody else notices them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from random import Random

import aiohttp
import pytest

from tests.fakes import FakePublisher
from tests.ingestclient import ONE, connect, post, served
from tests.waiting import until

#: The limits of `slow_server`.
TIMEOUT_S = 0.4
HEAD = b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with served(FakePublisher(), body_timeout_s=TIMEOUT_S, max_connections=3_000) as session:
        yield session


def url_of(client: aiohttp.ClientSession) -> str:
    return str(client._base_url)


async def exchange(client: aiohttp.ClientSession, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send the pieces and read until the server closes, or says nothing for a while."""
    reader, writer = await connect(url_of(client))
    answer = b""
    with contextlib.suppress(ConnectionError, TimeoutError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(5.0):
            while chunk := await reader.read(65_536):
                answer += chunk
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def is_answering(client: aiohttp.ClientSession) -> bool:
    status, _, _ = await post(client, ONE)
    return status == 202


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /events HTTP/9.9\r\n\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        HEAD + b"content-length: banana\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n123",
        HEAD + b"bad header\r\n\r\n",
        b"POST /%ff%fe HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of a TLS handshake
    ],
)
async def test_what_is_no_http_is_answered_with_a_4xx_or_closed(
    client: aiohttp.ClientSession, request_bytes: bytes
) -> None:
    answer = await exchange(client, request_bytes)

    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert await is_answering(client)


async def test_a_broken_request_is_refused_with_a_problem(client: aiohttp.ClientSession) -> None:
    answer = await exchange(client, b"GET\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert b"urn:keylane:problem:bad-request" in answer


async def test_endless_headers_are_cut_off(client: aiohttp.ClientSession) -> None:
    lines = [b"x-%d: %s\r\n" % (number, b"y" * 1_000) for number in range(200)]

    answer = await exchange(client, b"GET /healthz HTTP/1.1\r\n", *lines)

    # The answer may be lost: the server does not read what it refuses.
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")
    assert await is_answering(client)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"\r\n", b"POST /ev", HEAD, HEAD + b"content-length: 33\r\n"],
    ids=["nothing", "empty lines", "half a line", "half a head", "a head without its end"],
)
async def test_a_head_that_does_not_come_ends_the_connection(
    client: aiohttp.ClientSession, beginning: bytes
) -> None:
    assert await exchange(client, beginning) == b""
    assert await is_answering(client)


async def test_a_head_that_drips_ends_the_connection(client: aiohttp.ClientSession) -> None:
    drops = [HEAD[i : i + 1] for i in range(40)]

    assert await exchange(client, *drops, pause_s=0.1) == b""


async def test_a_body_that_does_not_come_in_time_is_refused(
    client: aiohttp.ClientSession,
) -> None:
    answer = await exchange(client, HEAD + b"content-length: 33\r\n\r\n[{")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body-too-slow" in answer


async def test_a_connection_that_is_used_again_after_a_pause_is_not_cut_off(
    client: aiohttp.ClientSession,
) -> None:
    reader, writer = await connect(url_of(client))
    for _ in range(2):
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(ONE) + ONE)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 202 ")
        await asyncio.sleep(TIMEOUT_S * 4)
    writer.close()
    await writer.wait_closed()


async def test_random_bytes_never_bring_it_down(client: aiohttp.ClientSession) -> None:
    rng = Random(7)
    good = HEAD + b"content-length: %d\r\n\r\n" % len(ONE) + ONE

    def broken() -> bytes:
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[place] = rng.randrange(256)
            else:
                del data[place : place + rng.randint(1, 20)]
        return bytes(data[: rng.randint(1, len(data))])

    for _ in range(10):
        answers = await asyncio.gather(*(exchange(client, broken()) for _ in range(20)))
        for answer in answers:
            assert not answer or answer[9:10] in b"24", answer[:200]
    assert await is_answering(client)


async def test_thousands_of_open_connections_leave_it_answering() -> None:
    async with served(FakePublisher(), max_connections=20_000) as client:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Both ends are in this process.
        opened = [await connect(url_of(client)) for _ in range(min(10_000, soft // 2 - 200))]

        assert len(opened) >= 400
        assert await is_answering(client)
        for _, writer in opened:
            writer.transport.abort()


async def test_a_connection_too_many_is_closed_and_the_others_go_on() -> None:
    async with served(FakePublisher(), max_connections=5) as client:
        links = [await connect(url_of(client)) for _ in range(8)]
        _, refused = links[-1]

        async def is_closed() -> bool:
            return links[-1][0].at_eof()

        await until(is_closed)
        assert await is_answering(client)
        for _, writer in links:
            writer.close()
        assert refused is links[-1][1]
