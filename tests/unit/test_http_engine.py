"""What anything that posts has to do, over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import stat
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pycurl
import pytest

from dispatch.destinations.http import engine as engine_module
from dispatch.destinations.http.engine import LibcurlEngine, Limits
from dispatch.destinations.http.port import MAX_ANSWER_BYTES, Answer, Engine, NoAnswer, Trouble
from dispatch.destinations.http.sockets import LoopSockets, watch_sockets
from tests.rawreceiver import OK, Request, answer_of, receiving
from tests.waiting import until

#: Makes an engine for a URL; limits by name.
Open = Callable[..., Engine]


@pytest.fixture(params=["uvloop", "asyncio", "asyncio, no epoll"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": kind == "uvloop"}


def open_descriptors() -> int:
    """Devices don't count: uvloop keeps one in reserve."""
    count = 0
    for path in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            count += not stat.S_ISCHR(os.fstat(int(path.name)).st_mode)
    return count


@pytest.fixture
async def open_engine(kind: str) -> AsyncIterator[Open]:
    opened: list[Engine] = []
    watch = LoopSockets if kind == "asyncio, no epoll" else watch_sockets

    def make(url: str, *, proxy: str = "", **limits: float) -> Engine:
        limited: dict[str, Any] = {
            "concurrency": 4,
            "timeout_s": 5.0,
            "connect_timeout_s": 2.0,
            "read_timeout_s": 5.0,
            **limits,
        }
        options: dict[int, int | str | bytes] = {pycurl.URL: url, pycurl.PROXY: proxy}
        made = LibcurlEngine(options, Limits(**limited), watch=watch)
        opened.append(made)
        return made

    before = open_descriptors()
    yield make
    for engine in opened:
        await engine.close()
    # Receivers of the test are closed already: nothing else is open.
    await until(lambda: open_descriptors() <= before)


async def test_an_answer_comes_with_its_status_its_head_and_its_body(open_engine: Open) -> None:
    async with receiving(answer_of(201, b"made", x_a="b")) as receiver:
        answer = await open_engine(receiver.url).post(
            ["content-type: text/plain", "x-b: c", "x-empty:", "x-last: d"], b"a\0b\xff"
        )

    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (201, b"made")
    assert b"x-a: b\r\n" in answer.head
    (request,) = receiver.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert request.body == b"a\0b\xff"
    assert request.headers["content-type"] == "text/plain"
    assert [request.headers[name] for name in ("x-b", "x-empty", "x-last")] == ["c", "", "d"]
    assert request.headers["user-agent"] == "keylane"
    assert "accept-encoding" not in request.headers


async def test_nothing_is_a_body_too(open_engine: Open) -> None:
    async with receiving() as receiver:
        assert isinstance(await open_engine(receiver.url).post([], b""), Answer)

    assert receiver.requests[0].headers["content-length"] == "0"


async def test_a_large_body_is_sent_whole_and_without_asking_first(open_engine: Open) -> None:
    body = os.urandom(5_000_000)
    async with receiving() as receiver:
        assert isinstance(await open_engine(receiver.url).post([], body), Answer)

    assert receiver.requests[0].body == body
    assert "expect" not in receiver.requests[0].headers


async def test_a_connection_is_used_again_and_no_more_are_open_than_may_be(
    open_engine: Open,
) -> None:
    async with receiving() as receiver:
        engine = open_engine(receiver.url, concurrency=3)
        answers = await asyncio.gather(*[engine.post([], b"%d" % n) for n in range(30)])
        answers.append(await engine.post([], b"last"))

        assert [answer.status for answer in answers if isinstance(answer, Answer)] == [200] * 31
        assert receiver.connections <= 3
    assert {request.body for request in receiver.requests} == {
        b"last",
        *(b"%d" % n for n in range(30)),
    }


async def test_each_request_gets_its_own_answer(open_engine: Open) -> None:
    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(int(request.body) % 3 / 100)
        writer.write(answer_of(200, request.body))

    async with receiving(echo) as receiver:
        engine = open_engine(receiver.url)
        answers = await asyncio.gather(*[engine.post([], b"%d" % n) for n in range(20)])

    assert [answer.body for answer in answers if isinstance(answer, Answer)] == [
        b"%d" % n for n in range(20)
    ]


async def test_what_may_not_be_sent_any_more_when_there_is_a_connection_is_not_sent(
    open_engine: Open,
) -> None:
    async with receiving() as receiver:
        engine = open_engine(receiver.url)
        for is_kept in (False, True):
            withdrawn = await engine.post([], b"late", lambda: False)
            assert isinstance(withdrawn, NoAnswer)
            assert (withdrawn.trouble, withdrawn.is_sent) == (Trouble.WITHDRAWN, False), is_kept
            assert isinstance(await engine.post([], b"in time", lambda: True), Answer)

    assert {request.body for request in receiver.requests} == {b"in time"}


async def test_it_is_asked_after_the_loop_stood_still_before_it_could_send(
    open_engine: Open,
) -> None:
    began_at = time.monotonic()

    def may_send() -> bool:
        return time.monotonic() - began_at < 0.2

    async with receiving() as receiver:
        engine = open_engine(receiver.url)
        assert isinstance(await engine.post([], b"first"), Answer)
        post = asyncio.ensure_future(engine.post([], b"late", may_send))
        await asyncio.sleep(0)  # it is handed to libcurl, which has not been called since
        time.sleep(0.3)  # noqa: ASYNC251  the loop is to stand still
        assert isinstance(await post, NoAnswer)

    assert [request.body for request in receiver.requests] == [b"first"]


async def test_a_redirect_is_an_answer_like_any_other(open_engine: Open) -> None:
    async with receiving() as trap:
        async with receiving(answer_of(301, location=trap.url)) as receiver:
            answer = await open_engine(receiver.url).post([], b"{}")

        assert isinstance(answer, Answer)
        assert answer.status == 301
        assert trap.connections == 0


async def test_cookies_are_not_kept(open_engine: Open) -> None:
    async with receiving(answer_of(200, set_cookie="a=b; Path=/")) as receiver:
        engine = open_engine(receiver.url)
        await engine.post([], b"1")
        await engine.post([], b"2")

    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_no_proxy_of_the_environment_is_used(
    open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with receiving() as receiver:
        assert isinstance(await open_engine(receiver.url).post([], b""), Answer)


@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES, MAX_ANSWER_BYTES + 1, 21_000])
async def test_of_a_long_answer_the_beginning_is_kept(open_engine: Open, size: int) -> None:
    async with receiving(answer_of(400, b"x" * size)) as receiver:
        answer = await open_engine(receiver.url).post([], b"")

    assert isinstance(answer, Answer)
    assert answer.status == 400
    assert answer.body == b"x" * MAX_ANSWER_BYTES


async def test_an_answer_without_an_end_is_not_read_to_it(open_engine: Open) -> None:
    async def pour(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 X\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with receiving(pour) as receiver:
        answer = await open_engine(receiver.url).post([], b"")
        await until(lambda: receiver.ended == 1)

    assert isinstance(answer, Answer)
    assert answer.status == 500


async def test_a_compressed_answer_stays_compressed(open_engine: Open) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)[:10_000]
    async with receiving(answer_of(400, bomb, content_encoding="gzip")) as receiver:
        answer = await open_engine(receiver.url).post([], b"")

    assert isinstance(answer, Answer)
    assert answer.body == bomb


async def test_a_chunked_answer_is_put_together(open_engine: Open) -> None:
    said = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with receiving(said) as receiver:
        answer = await open_engine(receiver.url).post([], b"")

    assert isinstance(answer, Answer)
    assert answer.body == b"abcde"


async def test_provisional_answers_are_passed_over(open_engine: Open) -> None:
    async with receiving(b"HTTP/1.1 103 Early\r\nx: y\r\n\r\n" + OK) as receiver:
        answer = await open_engine(receiver.url).post([], b"")

    assert isinstance(answer, Answer)
    assert answer.status == 200


# Failures


async def trouble_of(engine: Engine) -> Trouble:
    answer = await engine.post([], b"{}")
    assert isinstance(answer, NoAnswer), answer
    assert answer.text
    return answer.trouble


async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_an_answer_that_does_not_come_is_not_waited_for(open_engine: Open) -> None:
    async with receiving(hang) as receiver:
        answer = await open_engine(receiver.url, timeout_s=0.1).post([], b"")

    assert answer == NoAnswer(Trouble.TIMEOUT, "no answer within the timeout", is_sent=True)


async def test_silence_ends_an_attempt_before_its_timeout(open_engine: Open) -> None:
    async def stop(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await asyncio.Event().wait()

    for answer_so in (hang, stop):
        async with receiving(answer_so) as receiver:
            engine = open_engine(receiver.url, read_timeout_s=0.1)
            assert await engine.post([], b"") == NoAnswer(
                Trouble.TIMEOUT, "nothing heard for 0.1 s", is_sent=True
            )


async def test_a_slow_drip_is_no_silence_but_has_to_end_in_time(open_engine: Open) -> None:
    async def drip(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
        while True:
            writer.write(b".")
            await asyncio.sleep(0.01)

    async with receiving(drip) as receiver:
        began = time.monotonic()
        engine = open_engine(receiver.url, read_timeout_s=0.15, timeout_s=0.5)
        answer = await engine.post([], b"")

    assert answer == NoAnswer(Trouble.TIMEOUT, "no answer within the timeout", is_sent=True)
    assert time.monotonic() - began >= 0.49


async def test_a_connection_that_is_not_accepted_is_not_waited_for(open_engine: Open) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/"
        answer = await open_engine(url, connect_timeout_s=0.1).post([], b"")
        for one in waiting:
            one.close()

    assert answer == NoAnswer(Trouble.TIMEOUT, "no connection within 0.1 s")


async def test_a_closed_port_is_no_connection(open_engine: Open) -> None:
    # Port 1 is privileged and unused: nobody can take it meanwhile.
    assert await trouble_of(open_engine("http://127.0.0.1:1/")) is Trouble.CONNECTION


async def test_a_name_that_nobody_has_is_said(open_engine: Open) -> None:
    # Too long a label: no name server is asked.
    assert await trouble_of(open_engine(f"http://{'a' * 64}.test/")) is Trouble.NAME


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"nothing like HTTP\r\n\r\n",
    ],
)
async def test_half_an_answer_is_none(open_engine: Open, said: bytes) -> None:
    async def stop(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with receiving(stop) as receiver:
        assert await trouble_of(open_engine(receiver.url)) is Trouble.CONNECTION


async def test_endless_headers_end_the_attempt(open_engine: Open) -> None:
    async def pour(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a: " + b"b" * 1000 + b"\r\n")
            await writer.drain()

    async with receiving(pour) as receiver:
        assert await trouble_of(open_engine(receiver.url)) is Trouble.CONNECTION


async def test_a_reset_is_said(open_engine: Open) -> None:
    async with receiving(reset) as receiver:
        assert await trouble_of(open_engine(receiver.url)) is Trouble.CONNECTION


async def reset(_request: Request, writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


# Kept connections


async def test_a_kept_connection_that_was_closed_costs_nothing(open_engine: Open) -> None:
    async def close_after(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async with receiving(close_after) as receiver:
        engine = open_engine(receiver.url)
        for number in range(1, 4):
            assert isinstance(await engine.post([], b""), Answer)
            await until(lambda number=number: receiver.ended == number)  # type: ignore[misc]

    assert len(receiver.requests) == 3


async def test_no_attempt_is_lost_when_all_kept_connections_were_closed(open_engine: Open) -> None:
    async def close_later(_request: Request, writer: asyncio.StreamWriter) -> None:
        await until(lambda: len(receiver.requests) % 4 == 0)
        writer.write(OK)
        writer.close()

    async with receiving(close_later) as receiver:
        engine = open_engine(receiver.url)
        for number in range(1, 4):
            answers = await asyncio.gather(*[engine.post([], b"") for _ in range(4)])
            assert all(isinstance(answer, Answer) for answer in answers)
            await until(lambda number=number: receiver.ended == 4 * number)  # type: ignore[misc]

    assert len(receiver.requests) == 12


async def test_a_request_is_never_sent_twice(open_engine: Open) -> None:
    async def reset_second(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body == b"2":
            await reset(request, writer)
        else:
            writer.write(OK)

    async with receiving(reset_second) as receiver:
        engine = open_engine(receiver.url)
        assert isinstance(await engine.post([], b"1"), Answer)
        answer = await engine.post([], b"2")
        assert isinstance(await engine.post([], b"3"), Answer)

    assert answer == NoAnswer(
        Trouble.CONNECTION, "the connection was closed before an answer", is_sent=True
    )
    assert [request.body for request in receiver.requests] == [b"1", b"2", b"3"]


def test_connections_are_kept_for_less_than_servers_keep_them() -> None:
    assert engine_module.KEEP_ALIVE_S < 4


# Ending


async def silent(_request: Request, _writer: asyncio.StreamWriter) -> None:
    """No answer; and unlike one who hangs, it sees the connection end."""


async def test_a_cancelled_attempt_ends_its_connection_and_no_other(open_engine: Open) -> None:
    async def silent_once(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body != b"cancelled":
            writer.write(OK)

    async with receiving(silent_once) as receiver:
        engine = open_engine(receiver.url)
        cancelled = asyncio.ensure_future(engine.post([], b"cancelled"))
        await until(lambda: len(receiver.requests) == 1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await until(lambda: receiver.ended == 1, within_s=2)

        answers = await asyncio.gather(*[engine.post([], b"go on") for _ in range(8)])
        assert all(isinstance(answer, Answer) for answer in answers)
        assert receiver.ended == 1


async def test_an_attempt_that_took_too_long_ends_its_connection(open_engine: Open) -> None:
    for limit in ("timeout_s", "read_timeout_s"):
        async with receiving(silent) as receiver:
            await open_engine(receiver.url, **{limit: 0.05}).post([], b"")
            await until(lambda: receiver.ended == 1, within_s=2)


async def test_cancelling_at_any_moment_leaves_the_others_alone(open_engine: Open) -> None:
    async with receiving() as receiver:
        engine = open_engine(receiver.url)
        for turns in range(12):
            attempts = [asyncio.ensure_future(engine.post([], b"%d" % n)) for n in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            attempts[0].cancel()
            results = await asyncio.gather(*attempts, return_exceptions=True)
            assert all(isinstance(result, Answer) for result in results[1:]), results


async def test_closing_ends_what_still_runs(open_engine: Open) -> None:
    async with receiving(hang) as receiver:
        engine = open_engine(receiver.url)
        attempt = asyncio.ensure_future(engine.post([], b""))
        await until(lambda: len(receiver.requests) == 1)
        await engine.close()

        assert await attempt == NoAnswer(
            Trouble.CONNECTION, "closed before an answer", is_sent=True
        )
