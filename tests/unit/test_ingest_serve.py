from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import pytest
import structlog

from ingest.door import Door
from ingest.refusals import ShuttingDown
from ingest.serve import serve_until_signalled, serving
from ingest.throttle import Throttle
from keylane.errors import ConfigurationError
from keylane.ingestsettings import IngestSettings
from keylane.memory import MemoryBroker
from keylane.settings import Settings
from tests.fakes import FakeBroker, FakePublisher
from tests.waiting import until

JSON = {"Content-Type": "application/json"}
ONE = b'[{"UserID":"user-1","Payload":1}]'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


def make_settings(**ingest: Any) -> Settings:
    return Settings(
        ingest=IngestSettings(**{"port": 0, "drain_timeout_s": 5.0, "send_deadline_s": 5, **ingest})
    )


class Process:
    """A server that runs until it is signalled, as `keylane ingest` does."""

    def __init__(self, broker: FakeBroker, **ingest: Any) -> None:
        self._log = structlog.testing.LogCapture()
        structlog.configure(processors=[self._log])
        self.running = asyncio.create_task(serve_until_signalled(broker, make_settings(**ingest)))

    async def url(self) -> str:
        await until(lambda: "ingest.started" in self.said())
        return str(next(x["url"] for x in self._log.entries if x["event"] == "ingest.started"))

    def said(self) -> list[str]:
        return [line["event"] for line in self._log.entries]


@pytest.fixture
async def start(publisher: FakePublisher) -> AsyncIterator[Start]:
    """Starts servers; those that a failed test leaves behind end with it."""
    started: list[Process] = []

    def start(broker: FakeBroker, **ingest: Any) -> Process:
        started.append(Process(broker, **ingest))
        return started[-1]

    yield start
    structlog.reset_defaults()
    publisher.release()
    for process in started:
        process.running.cancel()
        await asyncio.wait([process.running])


Start: TypeAlias = Callable[..., Process]


async def status_of(answer: Any) -> int:
    async with answer as response:
        await response.read()
        return int(response.status)


def posting(session: aiohttp.ClientSession) -> Awaitable[int]:
    return asyncio.ensure_future(status_of(session.post("/events", data=ONE, headers=JSON)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_finishes_what_is_in_flight_and_refuses_the_rest(
    start: Start, publisher: FakePublisher, number: int
) -> None:
    broker = FakeBroker(publisher)
    process = start(broker)
    url = await process.url()
    publisher.hold()
    async with aiohttp.ClientSession(url) as session:
        await until(lambda: "broker.connected" in process.said())
        in_flight = posting(session)
        await until(lambda: len(publisher.held) == 1)
        os.kill(os.getpid(), number)
        await until(lambda: "ingest.stopping" in process.said())
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert await response.json() == {"ready": False, "reasons": ["shutting-down"]}
        async with session.post("/events", data=ONE, headers=JSON) as response:
            problem = await response.json(content_type=None)
            assert (response.status, problem["type"]) == (503, "urn:keylane:problem:shutting-down")
            assert response.headers["Retry-After"] == "1"
        closed_early = publisher.closed
        publisher.release()

        assert await in_flight == 202
        assert not closed_early
    assert await process.running == 0
    assert [publisher.closed, broker.closed] == [True, True]
    assert process.said()[-1] == "ingest.stopped"


async def test_what_does_not_finish_in_time_is_left(start: Start, publisher: FakePublisher) -> None:
    process = start(FakeBroker(publisher), drain_timeout_s=0.05)
    url = await process.url()
    publisher.hold()
    async with aiohttp.ClientSession(url) as session:
        await until(lambda: "broker.connected" in process.said())
        in_flight = posting(session)
        await until(lambda: len(publisher.held) == 1)
        os.kill(os.getpid(), signal.SIGTERM)

        assert await process.running == 0
        assert "requests.abandoned" in process.said()
        assert await in_flight == 500
    publisher.release()


async def test_a_second_signal_aborts(start: Start, publisher: FakePublisher) -> None:
    process = start(FakeBroker(publisher), drain_timeout_s=60)
    url = await process.url()
    publisher.hold()
    async with aiohttp.ClientSession(url) as session:
        await until(lambda: "broker.connected" in process.said())
        in_flight = posting(session)
        await until(lambda: len(publisher.held) == 1)
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: "ingest.stopping" in process.said())
        os.kill(os.getpid(), signal.SIGINT)

        assert await process.running == 130
        assert publisher.closed
        assert await in_flight == 500
    publisher.release()


async def test_it_serves_before_the_broker_is_there_and_recovers_alone(
    publisher: FakePublisher,
) -> None:
    broker = FakeBroker(publisher, refusals=1_000)
    async with (
        serving(broker, make_settings()) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        assert await status_of(session.get("/healthz")) == 200
        assert await status_of(session.get("/readyz")) == 503
        assert await posting(session) == 503

        broker.refusals = 0
        await until(lambda: _is_ready(session))
        assert await posting(session) == 202
    assert publisher.closed
    assert not broker.closed


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    return await status_of(session.get("/readyz")) == 200


async def test_it_stops_while_the_broker_is_still_away(
    start: Start, publisher: FakePublisher
) -> None:
    process = start(FakeBroker(publisher, refusals=1_000))
    await process.url()
    os.kill(os.getpid(), signal.SIGTERM)

    assert await process.running == 0


async def test_being_cancelled_all_at_once_leaves_nothing_open(publisher: FakePublisher) -> None:
    before = asyncio.all_tasks()

    async def serve() -> str:
        async with serving(FakeBroker(publisher), make_settings()) as served:
            started.set_result(served.url)
            await asyncio.Event().wait()
        return served.url

    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve())
    url = urlsplit(await started)
    await until(lambda: _answers(url.port))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    # As `asyncio.run` does with what its main coroutine left behind.
    ours = asyncio.all_tasks() - before
    for one in ours:
        one.cancel()
    await asyncio.wait(ours)

    assert task.done()
    assert await reader.read() == b""
    assert not await _answers(url.port)
    writer.close()
    await writer.wait_closed()


async def _answers(port: int | None) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_a_port_in_use_is_a_wrong_setting(publisher: FakePublisher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}: Address already in use"):
            async with serving(FakeBroker(publisher), make_settings(port=port)):
                pass


async def test_an_unknown_host_is_a_wrong_setting(publisher: FakePublisher) -> None:
    with pytest.raises(ConfigurationError, match="KEYLANE_INGEST__HOST"):
        async with serving(FakeBroker(publisher), make_settings(host="203.0.113.1", insecure=True)):
            pass


async def test_without_keys_other_machines_are_not_listened_to(publisher: FakePublisher) -> None:
    with pytest.raises(ConfigurationError, match="keylane keys create"):
        async with serving(FakeBroker(publisher), make_settings(host="0.0.0.0")):
            pass
    async with serving(FakeBroker(publisher), make_settings(host="0.0.0.0", insecure=True)):
        pass


async def test_what_the_caller_raises_comes_out_as_it_was(publisher: FakePublisher) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serving(FakeBroker(publisher), make_settings()):
            raise ZeroDivisionError


async def test_it_serves_on_the_broker_in_memory() -> None:
    broker = MemoryBroker()
    broker.cluster.create_topic("user-events", 3)
    async with (
        serving(broker, make_settings()) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        await until(lambda: _is_ready(session))
        assert await posting(session) == 202
    await broker.close()


async def test_ipv6_is_served_too(publisher: FakePublisher) -> None:
    async with (
        serving(FakeBroker(publisher), make_settings(host="::1")) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        assert served.url.startswith("http://[::1]:")
        assert await status_of(session.get("/healthz")) == 200


async def test_a_door_is_empty_when_the_last_one_has_left() -> None:
    door = Door()
    with door:
        with door:
            door.close()
            leaving = asyncio.ensure_future(door.emptied())
        await asyncio.sleep(0)
        assert not leaving.done()
    await leaving
    with pytest.raises(ShuttingDown), door:
        pass


def test_a_flood_of_lines_is_counted_instead_of_written() -> None:
    now = [100.0]
    throttle = Throttle(1.0, lambda: now[0])

    assert [throttle.suppressed("a") for _ in range(3)] == [0, None, None]
    assert throttle.suppressed("b") == 0
    now[0] += 1
    assert throttle.suppressed("a") == 2
    now[0] += 1
    assert throttle.suppressed("a") == 0
