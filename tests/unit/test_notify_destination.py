"""Apprise's own code against a web server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from dispatch.destinationcontract import opening_of
from dispatch.destinations.notify import MAX_THREADS, NotifyDestination, open_notify
from dispatch.outcome import Delivered, Unavailable
from keylane.errors import ConfigurationError
from tests.messages import make_delivery
from tests.waiting import until

#: What Apprise brings imports modules that Python is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Service:
    """Answers as it is told, and keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[dict[str, Any]] = []
        self.running = 0
        self.most = 0
        self.released = asyncio.Event()
        self.released.set()
        self.address = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.running += 1
        self.most = max(self.most, self.running)
        self.got.append(json.loads(await request.read()))
        await self.released.wait()
        self.running -= 1
        return web.Response(status=self.status)

    @property
    def url(self) -> str:
        return f"json://me:secret-word@{self.address}/path-secret"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.address = f"127.0.0.1:{runner.addresses[0][1]}"
    yield service
    service.released.set()
    await runner.cleanup()


def destination(*urls: str, timeout_s: float = 5, **settings: Any) -> NotifyDestination:
    return open_notify(opening_of("apprise:", timeout_s=timeout_s, urls=urls, **settings))


async def test_every_url_is_told_text_and_title(service: Service) -> None:
    opened = destination(service.url, service.url, message={"subject": "re: {{ event.user }}"})
    assert await opened.attempt(make_delivery(b'{"message": "a <b> & *c*\\nd"}')) == Delivered()
    await opened.close()
    assert [(m["title"], m["message"]) for m in service.got] == [("re: Ada", "a <b> & *c*\nd")] * 2


async def test_one_that_does_not_take_it_is_named_and_no_secret_is(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.status = 500
    opened = destination(service.url, "json://127.0.0.1:1/path-secret")
    outcome = await opened.attempt(make_delivery())
    await opened.close()
    assert outcome == Unavailable(
        "not taken by json:// (urls[0]), json:// (urls[1])", may_be_down=True
    )
    assert "secret" not in caplog.text


async def test_few_threads_run_and_none_is_left(service: Service) -> None:
    opened = destination(service.url)
    service.released.clear()
    attempts = [
        asyncio.ensure_future(opened.attempt(make_delivery(user=f"user-{n}"))) for n in range(10)
    ]
    await until(lambda: service.running == MAX_THREADS)
    service.released.set()
    assert set(await asyncio.gather(*attempts)) == {Delivered()}
    await opened.close()
    assert service.most == MAX_THREADS
    assert not [t for t in threading.enumerate() if t.name.startswith("notify")]


async def test_no_event_of_a_user_starts_while_another_may_still_be_under_way(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatch.destinations.notify._SOCKET_SHARE", 10.0)
    opened = destination(service.url, timeout_s=0.4)
    service.released.clear()
    timed_out = Unavailable("no answer within the timeout", may_be_down=True, is_overload=True)
    assert await opened.attempt(make_delivery()) == timed_out
    waiting = Unavailable("the attempt before is still running", is_overload=True)
    assert await opened.attempt(make_delivery()) == waiting
    assert len(service.got) == 1
    service.released.set()
    assert await opened.attempt(make_delivery(user="Bob")) == Delivered()
    await until(lambda: not opened._late)
    assert await opened.attempt(make_delivery()) == Delivered()
    await opened.close()


async def test_a_socket_does_not_wait_longer_than_an_attempt(service: Service) -> None:
    opened = destination(service.url, timeout_s=0.4)
    service.released.clear()
    outcome = await opened.attempt(make_delivery())
    assert isinstance(outcome, Unavailable)
    await until(lambda: not opened._late, within_s=2)
    await opened.close()


async def test_a_cancelled_attempt_that_has_no_thread_yet_never_gets_one(service: Service) -> None:
    opened = destination(service.url)
    service.released.clear()
    attempts = [
        asyncio.ensure_future(opened.attempt(make_delivery(user=f"user-{n}")))
        for n in range(MAX_THREADS + 1)
    ]
    await until(lambda: service.running == MAX_THREADS)
    attempts[-1].cancel()
    await asyncio.wait([attempts[-1]])
    assert not opened._late
    service.released.set()
    await asyncio.gather(*attempts[:-1])
    await opened.close()
    assert len(service.got) == MAX_THREADS


@pytest.mark.parametrize("url", ["nothing://like/it/secret", "secret", "json://", "slack://secret"])
def test_a_url_that_is_none_of_apprise_s_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"urls\[1\]\) is no URL of Apprise") as refused:
        destination("json://127.0.0.1/", url)
    assert "secret" not in str(refused.value).replace("secret://", "")


def test_no_url_at_all_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs urls"):
        destination()
