"""`http://` and `https://`: a POST of the payload's bytes, with the headers of CloudEvents and
Standard Webhooks.

Redirects are never followed, cookies never kept, proxies of the environment never used, and no more
than a little of the answer is read.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

import aiohttp
from standardwebhooks import Webhook

from dispatch.delivery import Delivery
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable
from keylane.errors import ContractError
from keylane.event import TRACE_PROPERTIES, Event

#: What of an answer is read; it makes the connection usable again, and tells why it was refused.
MAX_ANSWER_BYTES: Final = 16 * 1024
#: How much of it an error carries.
MAX_REASON_CHARACTERS: Final = 200
#: Shorter than what common servers wait (5 s and more) before they close an idle connection: an
#: attempt must not die of a connection that the other side is just closing.
KEEP_ALIVE_S: Final = 4.0
#: Answers below 500 that are worth another attempt: timeout, too early, too many requests.
_RETRIED: Final = frozenset({408, 425, 429})

_VISIBLE = re.compile(r"[\x20-\x7e]+")


class WebhookDestination:
    """Posts to one URL, over a pool of kept connections.

    `timeout_s` bounds an attempt as a whole. `secret` (`whsec_...`) adds `webhook-signature`.
    """

    def __init__(
        self, url: str, *, timeout_s: float, concurrency: int, secret: str | None = None
    ) -> None:
        self._url = url
        self._signer = Webhook(secret) if secret else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": "keylane", "Accept": "*/*"},
        )

    async def attempt(self, delivery: Delivery) -> Outcome:
        event = delivery.event
        headers = _headers(delivery, event)
        if self._signer:
            headers["webhook-signature"] = self._signature(event, headers)
        try:
            async with self._session.post(
                self._url, data=event.payload, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.content.read(MAX_ANSWER_BYTES)
                return _outcome(answer.status, answer.headers.get("Retry-After"), body)
        except TimeoutError:
            return Unavailable("no answer within the timeout")
        except (aiohttp.ClientError, OSError) as error:
            return Unavailable(f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS])

    def _signature(self, event: Event, headers: dict[str, str]) -> str:
        if self._signer is None:
            raise AssertionError("nothing to sign with")
        moment = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        try:
            body = event.payload.decode()
        except UnicodeDecodeError as error:
            raise ContractError("a payload that is not UTF-8 can't be signed") from error
        return self._signer.sign(headers["webhook-id"], moment, body)

    async def close(self) -> None:
        await self._session.close()


def _headers(delivery: Delivery, event: Event) -> dict[str, str]:
    if not _VISIBLE.fullmatch(event.content_type):
        raise ContractError("the content type can't be a header")
    event_id = _header_value(event.id)
    headers = {
        "content-type": event.content_type,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": _header_value(event.source),
        "ce-type": _header_value(event.type),
        "ce-time": _header_value(event.time),
        "webhook-id": event_id,
        "webhook-timestamp": str(int(time.time())),
        "keylane-user": quote(event.user, safe=""),
        "keylane-attempt": str(delivery.attempt),
        "keylane-position": delivery.position,
    }
    for name, value in event.extensions.items():
        headers[name if name in TRACE_PROPERTIES else f"ce-{name}"] = _header_value(value)
    return headers


#: Characters that the CloudEvents HTTP binding leaves as they are: printable ASCII but space,
#: double quote and percent.
_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


def _header_value(value: str) -> str:
    return quote(value, safe=_SAFE)


def _outcome(status: int, retry_after: str | None, body: bytes) -> Outcome:
    """The table of answers: 2xx delivered; 408, 425, 429 and 5xx retried; all others refused."""
    if 200 <= status < 300:  # noqa: PLR2004  the class of success
        return Delivered(status)
    said = body.decode("utf-8", "replace").strip()
    reason = f"answered {status}" + (f": {said}" if said else "")
    reason = reason[:MAX_REASON_CHARACTERS]
    if status >= 500 or status in _RETRIED:  # noqa: PLR2004  the class of server errors
        return Unavailable(reason, status, _retry_after_s(retry_after))
    return Refused(reason, status)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds or a date (RFC 9110); what is neither is as good as not sent."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time())
