"""Against a web server that answers as Slack does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from dispatch.destinationcontract import opening_of
from dispatch.destinations.slack import MAX_TEXT_CHARACTERS, open_slack
from dispatch.destinations.template import CUT_MARK
from dispatch.outcome import Delivered, Disabled, Forbidden, Outcome, Refused, Unavailable
from keylane.errors import ConfigurationError, ContractError
from tests.messages import make_delivery

SECRET = "T000-B000-XXXXSECRET"


class Slack:
    """Answers as it is told, and keeps what was posted."""

    def __init__(self) -> None:
        self.status = 200
        self.body = "ok"
        self.headers: dict[str, str] = {}
        self.posted: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.root = ""

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.posted.append((request.path, headers, json.loads(await request.read())))
        return web.Response(status=self.status, text=self.body, headers=self.headers)

    def text(self) -> str:
        return str(self.posted[-1][2]["text"])


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    slack = Slack()
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", slack.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slack.root = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield slack
    await runner.cleanup()


async def attempt(
    payload: bytes = b'{"message": "hello"}', *, is_guarded: bool = False, **settings: Any
) -> Outcome:
    opening = opening_of("slack:", timeout_s=2, **settings)
    opening = replace(opening, is_guarded=is_guarded)
    destination = open_slack(opening)
    try:
        return await destination.attempt(make_delivery(payload))
    finally:
        await destination.close()


async def to_webhook(slack: Slack, payload: bytes = b'{"message": "hello"}', **of: Any) -> Outcome:
    return await attempt(payload, slack={"webhook": f"{slack.root}/services/{SECRET}"}, **of)


async def to_api(slack: Slack, payload: bytes = b'{"message": "hello"}', **of: Any) -> Outcome:
    api = {"token": "xoxb-1", "channel": "C1", "api_url": f"{slack.root}/api"}
    return await attempt(payload, slack=api, **of)


async def test_a_webhook_gets_the_text(slack: Slack) -> None:
    assert await to_webhook(slack) == Delivered(200)
    ((path, headers, body),) = slack.posted
    assert path == f"/services/{SECRET}"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert "authorization" not in headers
    assert body == {
        "text": "hello",
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


async def test_a_token_posts_to_its_channel(slack: Slack) -> None:
    slack.body = '{"ok": true, "ts": "1"}'
    assert await to_api(slack) == Delivered(200)
    ((path, headers, body),) = slack.posted
    assert path == "/api/chat.postMessage"
    assert headers["authorization"] == "Bearer xoxb-1"
    assert (body["channel"], body["text"], body["parse"]) == ("C1", "hello", "none")


async def test_nothing_of_an_event_mentions_or_links_anybody(slack: Slack) -> None:
    payload = b'{"message": "<!channel> & <https://x.example|y>"}'
    await to_webhook(slack, payload)
    assert slack.text() == "&lt;!channel&gt; &amp; &lt;https://x.example|y&gt;"
    await to_webhook(slack, payload, message={"template": "<!here> *{{ event.payload.message }}*"})
    assert slack.text() == "<!here> *&lt;!channel&gt; &amp; &lt;https://x.example|y&gt;*"
    assert slack.posted[-1][2]["mrkdwn"] is True


async def test_a_text_that_is_too_long_is_cut_with_a_mark(slack: Slack) -> None:
    await to_webhook(slack, b"<" * 20_000)
    assert len(slack.text()) <= MAX_TEXT_CHARACTERS
    assert slack.text().endswith("&lt;" + CUT_MARK)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, "invalid_payload", Refused),
        (400, "user_not_found", Refused),
        (400, "no_text", Refused),
        (403, "action_prohibited", Disabled),
        (403, "invalid_token", Disabled),
        (404, "no_service", Disabled),
        (404, "channel_not_found", Disabled),
        (404, "<html>", Disabled),
        (410, "channel_is_archived", Disabled),
        (429, "rate_limited", Unavailable),
        (408, "", Unavailable),
        (500, "rollup_error", Unavailable),
        (503, "", Unavailable),
        (302, "", Unavailable),
    ],
)
async def test_what_a_webhook_s_answers_come_to(
    slack: Slack, status: int, body: str, kind: type[Outcome]
) -> None:
    slack.status, slack.body = status, body
    outcome = await to_webhook(slack)
    assert isinstance(outcome, kind)
    assert outcome.status == status


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, '{"ok": false, "error": "msg_too_long"}', Refused),
        (200, '{"ok": false, "error": "never_heard_of"}', Refused),
        (200, '{"ok": false}', Refused),
        (200, '{"ok": false, "error": "not_in_channel"}', Disabled),
        (200, '{"ok": false, "error": "is_archived"}', Disabled),
        (200, '{"ok": false, "error": "token_revoked"}', Disabled),
        (200, '{"ok": false, "error": "restricted_action_thread_only"}', Disabled),
        (200, '{"ok": false, "error": "ratelimited"}', Unavailable),
        (200, '{"ok": false, "error": "internal_error"}', Unavailable),
        (200, '{"ok": false, "error": ["odd"]}', Refused),
        (200, "<html>a proxy</html>", Unavailable),
        (200, "", Unavailable),
        (200, '{"ok": "yes"}', Unavailable),
        (200, "[]", Unavailable),
        (400, '{"ok": false, "error": "invalid_arguments"}', Refused),
        (503, '{"ok": true}', Unavailable),
    ],
)
async def test_what_the_web_api_s_answers_come_to(
    slack: Slack, status: int, body: str, kind: type[Outcome]
) -> None:
    slack.status, slack.body = status, body
    outcome = await to_api(slack)
    assert isinstance(outcome, kind)
    assert outcome.status == status


async def test_slack_s_wish_to_wait_is_kept(slack: Slack) -> None:
    slack.status, slack.body, slack.headers = 429, "rate_limited", {"Retry-After": "30"}
    outcome = await to_webhook(slack)
    assert outcome == Unavailable(
        "Slack answered 429: rate_limited", 429, 30.0, is_overload=True, answer="rate_limited"
    )


async def test_no_reason_holds_the_webhook_s_address(slack: Slack) -> None:
    slack.status, slack.body = 404, f"no_service for {SECRET}"
    assert SECRET not in str(await to_webhook(slack))
    gone = await attempt(slack={"webhook": f"http://127.0.0.1:1/services/{SECRET}"})
    assert isinstance(gone, Unavailable)
    assert gone.is_down
    assert SECRET not in str(gone)
    with pytest.raises(ConfigurationError, match="slack") as refused:
        await attempt(slack={"webhook": f"ftp://{SECRET}"})
    assert SECRET not in str(refused.value)


async def test_an_internal_address_is_refused_when_that_is_guarded(slack: Slack) -> None:
    assert isinstance(await to_webhook(slack, is_guarded=True), Forbidden)
    assert slack.posted == []


async def test_an_event_without_what_the_template_names_is_not_posted(slack: Slack) -> None:
    with pytest.raises(ContractError, match=r"destination 'contract': message\.template"):
        await to_webhook(slack, message={"template": "{{ event.payload.title }}"})
    assert slack.posted == []


@pytest.mark.parametrize(
    "settings",
    [{}, {"token": "x"}, {"channel": "C"}, {"token": "x", "channel": "C", "webhook": "https://x"}],
)
async def test_settings_that_are_neither_way_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"either slack\.webhook, or slack\.token"):
        await attempt(slack=settings)
