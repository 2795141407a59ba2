"""`slack:` posts a text: to an incoming webhook, or with a token through `chat.postMessage`.

The Web API answers 200 whatever became of it and says the rest in words; a webhook answers with a
status and a word. One table reads both. What is wrong with the app, its token or its channel is
wrong for every event, so it stops the destination instead of costing it its events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import orjson

from dispatch.delivery import Delivery
from dispatch.destinations.http.answers import header
from dispatch.destinations.http.connection import connection_to
from dispatch.destinations.http.engine import LibcurlEngine, Limits
from dispatch.destinations.http.guard import Guard
from dispatch.destinations.http.port import Engine, NoAnswer, Trouble
from dispatch.destinations.http.retryafter import retry_after_s
from dispatch.destinations.opening import Opening
from dispatch.destinations.template import Message
from dispatch.outcome import (
    Delivered,
    Disabled,
    Forbidden,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)
from keylane.destinationsettings import ChannelSettings, HttpSettings
from keylane.errors import ConfigurationError

#: Slack cuts silently what is longer.
MAX_TEXT_CHARACTERS: Final = 40_000
MAX_ANSWER_CHARACTERS: Final = 200
TOO_MANY: Final = 429
#: Stands for Slack's word where somebody in between answered, or nobody in full.
UNREADABLE: Final = "not an answer of Slack's"

#: May pass by itself.
_PASSING: Final = frozenset(
    {
        "accesslimited",
        "fatal_error",
        "internal_error",
        "message_limit_exceeded",
        "rate_limited",
        "ratelimited",
        "request_timeout",
        "rollup_error",
        "service_unavailable",
        "team_added_to_org",
        UNREADABLE,
    }
)
_OVERLOAD: Final = frozenset({"message_limit_exceeded", "rate_limited", "ratelimited"})
#: Holds for every event, until a person mends it.
_STANDING: Final = frozenset(
    {
        "access_denied",
        "account_inactive",
        "action_prohibited",
        "as_user_not_supported",
        "channel_is_archived",
        "channel_not_found",
        "deprecated_endpoint",
        "ekm_access_denied",
        "enterprise_is_restricted",
        "invalid_auth",
        "invalid_token",
        "is_archived",
        "is_inactive",
        "method_deprecated",
        "missing_scope",
        "no_active_hooks",
        "no_permission",
        "no_service",
        "no_team",
        "not_allowed_token_type",
        "not_authed",
        "not_in_channel",
        "org_login_required",
        "posting_to_general_channel_denied",
        "team_access_not_granted",
        "team_disabled",
        "token_expired",
        "token_revoked",
        "two_factor_setup_required",
    }
)
_HEADERS: Final = ("content-type: application/json; charset=utf-8",)
_STANDING_STATUSES: Final = frozenset({401, 403, 404, 410})
_PASSING_STATUSES: Final = frozenset({408, 425, TOO_MANY})


class SlackDestination:
    """Posts each event's text as one message: to `channel`, or to the webhook's own."""

    def __init__(
        self,
        engine: Engine,
        message: Message,
        channel: str | None,
        secrets: Iterable[str],
    ) -> None:
        self._engine = engine
        self._message = message
        self._channel = channel
        #: What no outcome tells, even if somebody in between repeats it. Longer ones first.
        self._secrets = sorted({s.encode() for s in secrets if s}, key=len, reverse=True)

    async def attempt(self, delivery: Delivery) -> Outcome:
        body = self._body(delivery)
        answer = await self._engine.post(_HEADERS, body, delivery.may_begin)
        if isinstance(answer, NoAnswer):
            if answer.trouble is Trouble.WITHDRAWN:
                return Withdrawn()
            if answer.trouble is Trouble.FORBIDDEN:
                return Forbidden(answer.text)
            is_overload = answer.trouble is Trouble.TIMEOUT
            return Unavailable(
                answer.text,
                is_down=not is_overload,
                may_be_down=is_overload,
                is_overload=is_overload,
            )
        body = answer.body
        for secret in self._secrets:
            body = body.replace(secret, b"***")
        return outcome_of(
            answer.status,
            body,
            retry_after_s(header(answer.head, b"retry-after")),
            is_api=self._channel is not None,
        )

    def _body(self, delivery: Delivery) -> bytes:
        body: dict[str, object] = {
            "text": self._message.text(delivery, MAX_TEXT_CHARACTERS),
            "mrkdwn": not self._message.is_default,
            "unfurl_links": False,
            "unfurl_media": False,
        }
        if self._channel is not None:
            body |= {"channel": self._channel, "parse": "none", "link_names": False}
        return orjson.dumps(body)

    async def close(self) -> None:
        await self._engine.close()


def outcome_of(status: int, body: bytes, wait_s: float | None, *, is_api: bool) -> Outcome:
    """What an answer of the Web API (`is_api`) or of an incoming webhook comes to.

    `wait_s` is how long Slack asks to wait.
    """
    is_success = 200 <= status < 300  # noqa: PLR2004  the class of success
    said = body.decode("utf-8", "replace").strip()
    if is_success and not is_api:
        return Delivered(status)
    if is_success or said.startswith("{"):
        is_ok, said = _read(body)
        if is_ok and is_success:
            return Delivered(status)
    return _failure(status, said[:MAX_ANSWER_CHARACTERS], wait_s)


def _read(body: bytes) -> tuple[bool, str]:
    """Whether the Web API took it, and its word for why not."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        return False, UNREADABLE
    return answer["ok"], str(answer.get("error", ""))


def _failure(status: int, said: str, wait_s: float | None) -> Outcome:
    reason = f"Slack answered {status}" + (f": {said}" if said else "")
    if said in _STANDING or said.startswith("restricted_action"):
        return Disabled(reason, status, said)
    # A redirect is not followed, and tells nothing about the event.
    is_elsewhere = 300 <= status < 400 or status >= 500  # noqa: PLR2004  the classes of statuses
    if said in _PASSING or status in _PASSING_STATUSES or is_elsewhere:
        is_overload = said in _OVERLOAD or status == TOO_MANY
        return Unavailable(
            reason,
            status,
            wait_s,
            may_be_down=not is_overload,
            is_overload=is_overload,
            answer=said,
        )
    if status in _STANDING_STATUSES:
        return Disabled(reason, status, said)
    return Refused(reason, status, said)


def open_slack(opening: Opening) -> SlackDestination:
    """Raises `ConfigurationError` for settings that do not make one of the two ways."""
    name = f"destination '{opening.destination}'"
    settings = opening.settings
    url, http = _where(settings, name)
    try:
        connection = connection_to(url, http)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: slack: {error}") from error
    message = Message(settings.message, name, is_markup=True)
    limits = Limits(
        opening.concurrency, opening.timeout_s, http.connect_timeout_s, http.read_timeout_s
    )
    guarded = opening.is_guarded and not connection.is_proxied
    guard = Guard(http.allow) if guarded else None
    engine = LibcurlEngine(connection.options, limits, guard, headers=connection.headers)
    channel = None if settings.slack.webhook else settings.slack.channel
    secrets = list(connection.secrets)
    if settings.slack.webhook:
        secrets += [url, *urlsplit(url).path.rsplit("/", 1)]
    return SlackDestination(engine, message, channel, secrets)


def _where(settings: ChannelSettings, name: str) -> tuple[str, HttpSettings]:
    """The URL to post to, and how."""
    slack = settings.slack
    if slack.webhook is not None and slack.token is None and slack.channel is None:
        return slack.webhook.get_secret_value(), settings.http
    if slack.token is not None and slack.channel and slack.webhook is None:
        url = slack.api_url.rstrip("/") + "/chat.postMessage"
        return url, settings.http.model_copy(update={"bearer": slack.token})
    raise ConfigurationError(
        f"{name}: slack: needs either slack.webhook, or slack.token and slack.channel"
    )
