"""Internal addresses are refused when they are dialled, however they are written."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pycurl
import pytest

from dispatch.destinations.http.engine import LibcurlEngine, Limits
from dispatch.destinations.http.guard import Guard
from dispatch.destinations.http.port import Answer, NoAnswer, Trouble
from dispatch.destinations.webhook import WebhookDestination
from dispatch.outcome import Delivered, Forbidden, Outcome, Unavailable
from keylane.destinationsettings import HttpSettings
from keylane.errors import ConfigurationError
from tests.messages import make_delivery
from tests.rawreceiver import OK, RawReceiver, Request, receiving
from tests.waiting import until

LIMITS = Limits(concurrency=2, timeout_s=5, connect_timeout_s=2, read_timeout_s=5)


@pytest.fixture
async def trap() -> AsyncIterator[RawReceiver]:
    """Must never be called."""
    async with receiving() as receiver:
        yield receiver
        assert receiver.connections == 0


async def attempt(url: str, **http: Any) -> Outcome:
    destination = WebhookDestination(
        url, timeout_s=5, concurrency=1, http=HttpSettings(**http), is_guarded=True
    )
    try:
        return await destination.attempt(make_delivery())
    finally:
        await destination.close()


FORGED = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0x0.0.1",
    "%31%32%37.0.0.1",
    "127.255.255.254",
    "0",
    "0.0.0.0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "example.com@127.0.0.1",
    "example.com:80@127.0.0.1",
    "example.com%2f@127.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fec0::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[2001:2::1]",
    "[100::1]",
    "[5f00::1]",
    "169.254.169.254",
    "169.254.169.254.",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.1.1",
    "168.63.129.16",
    "100.100.100.200",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "0300.0250.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]


@pytest.mark.parametrize("host", FORGED)
async def test_an_internal_address_is_not_called(host: str, trap: RawReceiver) -> None:
    outcome = await attempt(f"http://{host}:{trap.port}/")
    assert isinstance(outcome, Forbidden), outcome
    assert "address" in outcome.reason


@pytest.mark.parametrize("host", FORGED)
async def test_an_internal_address_is_not_asked_for_at_a_proxy(
    host: str, trap: RawReceiver
) -> None:
    outcome = await attempt(f"http://{host}/", proxy=f"http://127.0.0.1:{trap.port}")
    assert isinstance(outcome, Forbidden), outcome


@pytest.mark.parametrize(
    "host", ["①②⑦.0.0.1", "127。0。0。1", "localhost%00.example.com", "127.0.0.1\\@x.test"]
)
async def test_what_is_no_host_is_not_called(host: str, trap: RawReceiver) -> None:
    try:
        outcome = await attempt(f"http://{host}:{trap.port}/")
    except ConfigurationError:
        return
    assert isinstance(outcome, Forbidden | Unavailable)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1"),
        *("2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "2001:4860:4860::8888"),
    ],
)
def test_a_public_address_may_be_called(address: str) -> None:
    assert Guard().objection(address) is None


def test_what_carries_another_address_needs_both_let_through() -> None:
    assert Guard(["64:ff9b::/96"]).objection("64:ff9b::808:808") is None
    assert Guard(["64:ff9b::/96"]).objection("64:ff9b::7f00:1")
    assert Guard(["64:ff9b::/96", "127.0.0.0/8"]).objection("64:ff9b::7f00:1") is None
    assert Guard(["127.0.0.0/8"]).objection("::ffff:127.0.0.1")
    assert Guard(["64:ff9b:1::/48"]).objection("64:ff9b:1::a00:1")
    assert Guard(["2002::/16"]).objection("2002:7f00:1::")


async def test_networks_can_be_let_through() -> None:
    async with receiving() as receiver:
        outcome = await attempt(receiver.url, allow=("127.0.0.1/32",))
        assert outcome == Delivered(200)
        refused = await attempt(receiver.url, allow=("127.0.0.2", "10.0.0.0/8"))
        assert refused == Forbidden("127.0.0.1 is a loopback address")
        assert receiver.connections == 1


async def test_without_a_guard_internal_addresses_are_called() -> None:
    async with receiving() as receiver:
        destination = WebhookDestination(receiver.url, timeout_s=5, concurrency=1)
        assert await destination.attempt(make_delivery()) == Delivered(200)
        await destination.close()


async def test_a_proxy_may_itself_be_internal() -> None:
    async with receiving() as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        assert await attempt("http://example.com/x", proxy=url) == Delivered(200)
    assert proxy.requests[0].line == "POST http://example.com/x HTTP/1.1"


def engine_with(addresses: str, port: int, *allow: str) -> LibcurlEngine:
    options: dict[int, Any] = {
        pycurl.URL: f"http://name.test:{port}/",
        pycurl.PROXY: "",
        pycurl.RESOLVE: [f"name.test:{port}:{addresses}"],
    }
    return LibcurlEngine(options, LIMITS, Guard(allow))


async def test_of_several_addresses_those_let_through_are_tried() -> None:
    async with receiving(host="0.0.0.0") as receiver:
        engine = engine_with("127.0.0.1,127.0.0.2,[::1]", receiver.port, "127.0.0.2")
        assert isinstance(await engine.post([], b""), Answer)
        await engine.close()


async def test_a_name_with_internal_addresses_only_is_forbidden(trap: RawReceiver) -> None:
    engine = engine_with("127.0.0.1,[::1],10.0.0.1", trap.port)
    answer = await engine.post([], b"")
    assert isinstance(answer, NoAnswer)
    assert answer.trouble is Trouble.FORBIDDEN
    await engine.close()


async def test_an_address_let_through_that_does_not_answer_is_no_forbidden_one() -> None:
    engine = engine_with("127.0.0.1,127.0.0.2", 1, "127.0.0.2")
    answer = await engine.post([], b"")
    assert isinstance(answer, NoAnswer)
    assert answer.trouble is Trouble.CONNECTION
    await engine.close()


async def test_a_name_that_moves_to_an_internal_address_is_not_followed() -> None:
    async def answer_and_close(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async with receiving(answer_and_close, host="0.0.0.0") as receiver:
        engine = engine_with("127.0.0.2", receiver.port, "127.0.0.2")
        assert isinstance(await engine.post([], b""), Answer)
        await until(lambda: receiver.ended == 1)
        name = f"name.test:{receiver.port}"
        (transfer,) = engine._idle
        transfer.curl.setopt(pycurl.RESOLVE, [f"-{name}", f"{name}:127.0.0.1"])
        assert await engine.post([], b"") == NoAnswer(
            Trouble.FORBIDDEN, "127.0.0.1 is a loopback address"
        )
        await engine.close()
        assert receiver.connections == 1


async def test_guarded_connections_are_kept_and_leave_no_socket_behind() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with receiving() as receiver:
            engine = LibcurlEngine(
                {pycurl.URL: receiver.url, pycurl.PROXY: ""}, LIMITS, Guard(["127.0.0.0/8"])
            )
            for _ in range(5):
                assert isinstance(await engine.post([], b""), Answer)
            assert receiver.connections == 1
            await engine.close()
            await until(lambda: receiver.ended == 1)
