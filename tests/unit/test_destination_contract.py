"""The suite of plugin authors, on Keylane's own kinds; and the suite on kinds that break it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiohttp import web
from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinationcontract import (
    Arrival,
    Counterpart,
    DestinationContract,
    opening_of,
)
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.file import FileDestination
from dispatch.destinations.kinds import open_kind
from dispatch.destinations.stdout import StdoutDestination
from dispatch.outcome import Delivered, Outcome


class HttpReceiver(Counterpart):
    """A web server that keeps the requests it got."""

    def __init__(self) -> None:
        self.arrived: list[Arrival] = []
        self.runner = web.AppRunner(self._application(), shutdown_timeout=0.1)
        self._released = asyncio.Event()
        self._released.set()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/", self._take)
        return application

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        await self._released.wait()
        self.arrived.append(self.arrival(request, body))
        return web.Response(text="ok")

    def arrival(self, request: web.Request, body: bytes) -> Arrival:
        return Arrival(
            body,
            unquote(request.headers["ce-id"]),
            unquote(request.headers["keylane-user"]),
            int(request.headers["keylane-attempt"]),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}/"

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return open_kind(opening_of(self.url, timeout_s=timeout_s))

    @override
    async def received(self) -> Sequence[Arrival]:
        return self.arrived

    @override
    async def go_away(self) -> None:
        await self.runner.cleanup()

    @override
    async def stall(self) -> None:
        self._released.clear()


@asynccontextmanager
async def served(receiver: HttpReceiver) -> AsyncIterator[HttpReceiver]:
    await receiver.runner.setup()
    await web.TCPSite(receiver.runner, "127.0.0.1", 0).start()
    try:
        yield receiver
    finally:
        receiver._released.set()
        await receiver.runner.cleanup()


class TestWebhook(DestinationContract):
    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        async with served(HttpReceiver()) as receiver:
            yield receiver


class SlackReceiver(HttpReceiver):
    """Shows what arrived: a text, and nothing of the event's own."""

    @override
    def arrival(self, request: web.Request, body: bytes) -> Arrival:
        text = json.loads(body)["text"]
        return Arrival(text.encode() if text.startswith(("{", "0")) else None)

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        template = {"template": "{{ event.text }}"}
        return open_kind(
            opening_of("slack:", timeout_s=timeout_s, slack={"webhook": self.url}, message=template)
        )


class TestSlack(DestinationContract):
    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        async with served(SlackReceiver()) as receiver:
            yield receiver


class JsonLines(Counterpart):
    """A file of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    async def received(self) -> Sequence[Arrival]:
        lines = self.path.read_text().split("\n")[:-1] if self.path.exists() else []
        return [
            Arrival(None, line["id"], line["user"], line["attempt"])
            for line in map(json.loads, lines)
        ]


class FileLines(JsonLines):
    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return FileDestination(self.path)


class OutputLines(JsonLines):
    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return StdoutDestination(self.descriptor)


class _OnFiles(DestinationContract):
    can_go_away = False
    can_stall = False

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.made = 0

    def path(self) -> Path:
        self.made += 1
        return self.folder / f"{self.made}.jsonl"


class TestFile(_OnFiles):
    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        yield FileLines(self.path())


class TestStdout(_OnFiles):
    @asynccontextmanager
    @override
    async def counterpart(self) -> AsyncIterator[Counterpart]:
        lines = OutputLines(self.path())
        try:
            yield lines
        finally:
            os.close(lines.descriptor)


# The suite itself


class Kept(Counterpart):
    """A list, and a destination that does with it what a test tells it."""

    def __init__(self, kind: type[ToList]) -> None:
        self.arrived: list[Arrival] = []
        self.kind = kind

    @override
    def open(self, *, timeout_s: float) -> Destination | ImmediateDestination:
        return self.kind(self.arrived)

    @override
    async def received(self) -> Sequence[Arrival]:
        return self.arrived

    @override
    async def go_away(self) -> None:
        pass

    @override
    async def stall(self) -> None:
        pass


class ToList:
    def __init__(self, arrived: list[Arrival]) -> None:
        self.arrived = arrived

    async def attempt(self, delivery: Delivery) -> Outcome:
        event = delivery.event
        self.arrived.append(Arrival(event.payload, event.id, event.user, delivery.attempt))
        return Delivered()

    async def close(self) -> None:
        pass


class Changing(ToList):
    """Changes the payload."""

    @override
    async def attempt(self, delivery: Delivery) -> Outcome:
        text = delivery.event.payload.decode("utf-8", "replace").encode()
        self.arrived.append(Arrival(text.strip(b'" \n'), None, None, 1))
        return Delivered()


class Raising(ToList):
    """Raises at what is no UTF-8."""

    @override
    async def attempt(self, delivery: Delivery) -> Outcome:
        delivery.event.payload.decode()
        return await super().attempt(delivery)


class Forgetting(ToList):
    """Says that it delivers, and doesn't."""

    @override
    async def attempt(self, delivery: Delivery) -> Outcome:
        return Delivered()


class Hanging(ToList):
    """Ends when it likes, and not when it is told."""

    @override
    async def attempt(self, delivery: Delivery) -> Outcome:
        self.task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.shield(self.task)
        return Delivered()

    @override
    async def close(self) -> None:
        self.task.cancel()


def suite_of(kind: type[ToList]) -> DestinationContract:
    class Suite(DestinationContract):
        @asynccontextmanager
        @override
        async def counterpart(self) -> AsyncIterator[Counterpart]:
            yield Kept(kind)

    return Suite()


def test_the_suite_passes_what_keeps_the_contract() -> None:
    suite = suite_of(ToList)
    suite.test_an_event_arrives_as_it_was_sent()
    suite.test_any_payload_arrives_whole_or_is_refused()
    suite.test_any_user_and_id_arrive_whole_or_are_refused()
    suite.test_a_message_that_is_no_event_is_malformed()
    suite.test_events_of_several_users_go_at_the_same_time()
    suite.test_closing_it_again_does_no_harm()


def test_the_suite_finds_a_payload_that_is_changed() -> None:
    with pytest.raises(AssertionError, match="payload is"):
        suite_of(Changing).test_any_payload_arrives_whole_or_is_refused()


def test_the_suite_finds_an_attempt_number_that_stays() -> None:
    with pytest.raises(AssertionError, match="attempt is 1 instead of 2"):
        suite_of(Changing).test_a_repeated_attempt_is_one_more_delivery_with_its_number()


def test_the_suite_finds_an_error_that_is_none_of_the_contract() -> None:
    with pytest.raises(UnicodeDecodeError):
        suite_of(Raising).test_any_payload_arrives_whole_or_is_refused()


def test_the_suite_finds_what_is_never_delivered() -> None:
    with pytest.raises(AssertionError, match="0 of 8"):
        suite_of(Forgetting).test_events_of_several_users_go_at_the_same_time()
    with pytest.raises(AssertionError, match="came to Delivered"):
        suite_of(Forgetting).test_a_counterpart_out_of_reach_is_worth_another_attempt()
    with pytest.raises(AssertionError, match="came to Delivered"):
        suite_of(Forgetting).test_a_message_that_is_no_event_is_malformed()


def test_the_suite_finds_an_attempt_that_leaves_something_running() -> None:
    with pytest.raises(AssertionError, match="leaves tasks"):
        suite_of(Hanging).test_a_cancelled_attempt_leaves_nothing_running()
    with pytest.raises(TimeoutError):
        suite_of(Hanging).test_an_attempt_without_an_answer_ends_in_time()
