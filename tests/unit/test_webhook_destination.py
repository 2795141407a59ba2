"""Over real sockets: what is sent, and what each answer comes to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from standardwebhooks import Webhook

from dispatch.destinations.webhook import WebhookDestination
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable, Withdrawn
from keylane.errors import ContractError
from tests.messages import make_delivery

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """Answers as it is told, and keeps what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.delay_s = 0.0
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path, headers, await request.read()))
        await asyncio.sleep(self.delay_s)
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


async def attempt(
    url: str, payload: bytes = b"{}", *, secret: str | None = None, **attributes: str
) -> Outcome:
    destination = WebhookDestination(url, timeout_s=0.5, concurrency=2, secret=secret)
    try:
        return await destination.attempt(make_delivery(payload, 3, **attributes))
    finally:
        await destination.close()


async def test_a_delivery_carries_the_payload_s_bytes_and_all_headers(receiver: Receiver) -> None:
    payload = '{"b":1.0, "a":"Zoë"}'.encode()
    assert await attempt(receiver.url, payload, user="Zoë/1") == Delivered(200)

    ((path, headers, body),) = receiver.requests
    assert path == "/hook"
    assert body == payload
    sent_at = int(headers["webhook-timestamp"])
    assert abs(sent_at - time.time()) < 5
    expected = {
        "content-type": "application/json",
        "ce-id": "event-1",
        "ce-specversion": "1.0",
        "ce-source": "keylane",
        "ce-type": "keylane.event",
        "ce-time": "2023-11-14T22:13:20.000Z",
        "webhook-id": "event-1",
        "keylane-user": "Zo%C3%AB%2F1",
        "keylane-attempt": "3",
        "keylane-position": "0:7:3",
    }
    assert expected.items() <= headers.items()
    assert "webhook-signature" not in headers


async def test_what_may_not_begin_any_more_is_not_sent(receiver: Receiver) -> None:
    destination = WebhookDestination(receiver.url, timeout_s=0.5, concurrency=2)
    late = make_delivery()
    late.may_begin = lambda: False

    assert await destination.attempt(late) == Withdrawn()
    assert await destination.attempt(make_delivery()) == Delivered(200)
    assert len(receiver.requests) == 1
    await destination.close()


async def test_a_secret_signs_what_is_sent(receiver: Receiver) -> None:
    await attempt(receiver.url, b'{"test": 2432232314}', secret=SECRET)
    _, headers, body = receiver.requests[0]
    Webhook(SECRET).verify(body, headers)
    with pytest.raises(Exception, match="signature"):
        Webhook(SECRET).verify(body + b" ", headers)


async def test_values_that_no_header_can_carry_are_encoded(receiver: Receiver) -> None:
    await attempt(receiver.url, id='a b"%\né', type="tÿpe")
    _, headers, _ = receiver.requests[0]
    assert headers["ce-id"] == headers["webhook-id"] == "a%20b%22%25%0A%C3%A9"
    assert headers["ce-type"] == "t%C3%BFpe"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_delivered(receiver: Receiver, status: int) -> None:
    receiver.status = status
    assert await attempt(receiver.url) == Delivered(status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_answers_that_may_change_are_worth_a_retry(receiver: Receiver, status: int) -> None:
    receiver.status = status
    outcome = await attempt(receiver.url)
    assert isinstance(outcome, Unavailable)
    assert outcome.status == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_other_refusals_are_final(receiver: Receiver, status: int) -> None:
    receiver.status = status
    receiver.body = b"no such user"
    assert await attempt(receiver.url) == Refused(
        f"answered {status}: no such user", status, "no such user"
    )


async def test_a_redirect_is_never_followed(receiver: Receiver) -> None:
    receiver.status = 301
    receiver.headers = {"Location": receiver.url.replace("/hook", "/trap")}
    outcome = await attempt(receiver.url)
    assert isinstance(outcome, Refused)
    assert [path for path, _, _ in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("0", 0), ("120.1", None), ("soon", None), ("-5", None), ("", None)],
)
async def test_the_time_that_a_destination_asks_for_is_read(
    receiver: Receiver, value: str, seconds: float | None
) -> None:
    receiver.status, receiver.headers = 429, {"Retry-After": value}
    outcome = await attempt(receiver.url)
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_s == seconds


@pytest.mark.parametrize(("in_s", "seconds"), [(90, 90), (-90, 0)])
async def test_a_date_to_retry_at_is_read(receiver: Receiver, in_s: int, seconds: int) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=in_s)
    receiver.status, receiver.headers = 503, {"Retry-After": format_datetime(moment, usegmt=True)}
    outcome = await attempt(receiver.url)
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_s == pytest.approx(seconds, abs=2)


async def test_an_answer_that_does_not_come_is_worth_a_retry(receiver: Receiver) -> None:
    receiver.delay_s = 1
    assert await attempt(receiver.url) == Unavailable(
        "no answer within the timeout", may_be_down=True, is_overload=True
    )


async def test_nobody_listening_is_worth_a_retry() -> None:
    # Port 1 is privileged and unused: nobody can take it meanwhile.
    outcome = await attempt("http://127.0.0.1:1/hook")
    assert isinstance(outcome, Unavailable)
    assert "connect" in outcome.reason
    assert outcome.is_down


async def test_a_huge_answer_is_not_read_to_its_end(receiver: Receiver) -> None:
    receiver.status, receiver.body = 400, b"x" * 10_000_000
    outcome = await attempt(receiver.url)
    assert isinstance(outcome, Refused)
    assert len(outcome.reason) <= 200


async def test_an_event_that_can_not_be_a_request_is_a_broken_contract(receiver: Receiver) -> None:
    with pytest.raises(ContractError):
        await attempt(receiver.url, content_type="a\nb")
    assert receiver.requests == []
