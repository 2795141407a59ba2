"""One request to `POST /events`, and what its answer says."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import orjson
from tenacity import RetryCallState, wait_exponential, wait_random

from keylane.errors import KeylaneError
from keylane.masking import mask_url

#: Longer than a server waits for the broker's receipts, or its answer would be missed.
TIMEOUT_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
_TEMPORARY: Final = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
)
_BACKOFF = wait_exponential(multiplier=0.1, max=5.0) + wait_random(0, 0.1)


class Temporary(KeylaneError):  # noqa: N818  named by the fact
    """The service can't take events now; the same request may succeed later."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopped(KeylaneError):  # noqa: N818  named by the fact
    """Sending on makes no sense, now or with this address."""


def wait_s(state: RetryCallState) -> float:
    """Seconds before the next try: as long as the service asked for, with backoff at least."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, Temporary) else 0.0
    return max(asked, _BACKOFF(state))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered; `problem` is empty for 202."""

    status: int
    body: Mapping[str, Any]
    retry_after_s: float

    def is_acceptance_of(self, events: int) -> bool:
        return self.status == HTTPStatus.ACCEPTED and self.body.get("accepted") == events

    @property
    def is_temporary(self) -> bool:
        return self.status in _TEMPORARY or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def reason(self) -> str:
        return str(self.body.get("detail") or self.body.get("title") or f"HTTP {self.status}")

    def bad_elements(self) -> dict[int, str]:
        """The elements that the service named as bad, by index in the request, with the reasons."""
        reasons: dict[int, list[str]] = {}
        for error in self.body.get("errors") or ():
            said = f"{error.get('field') or ''} {error.get('detail') or self.reason}".strip()
            reasons.setdefault(int(error["index"]), []).append(said)
        return {index: "; ".join(said) for index, said in reasons.items()}

    def fates(self) -> dict[int, str]:
        """What became of each event of a request that was accepted in part, by index."""
        return {int(e["index"]): str(e["status"]) for e in self.body.get("events") or ()}


class Poster:
    """A session with one ingest service, from `open` to `close`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/events") + "/events"
        self._session: aiohttp.ClientSession | None = None

    @property
    def shown_url(self) -> str:
        return mask_url(self._url)

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def post(self, events: Sequence[bytes]) -> Answer:
        """Send one request; raises `Temporary` without an answer, `Stopped` for an unfit URL."""
        if self._session is None:
            raise RuntimeError("open the poster first")
        try:
            async with self._session.post(
                self._url,
                data=b"[" + b",".join(events) + b"]",
                headers={"content-type": "application/json"},
                allow_redirects=False,
            ) as response:
                body = await response.read()
                wait = _seconds(response.headers.get("retry-after", ""))
                return Answer(response.status, _decoded(body), wait)
        except aiohttp.InvalidURL as error:
            raise Stopped(f"{self.shown_url} is no URL: write http://HOST:PORT.") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Temporary(
                f"{self.shown_url} gave no answer ({str(error) or 'no answer in time'})"
            ) from error


def _decoded(body: bytes) -> Mapping[str, Any]:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return decoded if isinstance(decoded, Mapping) else {}


def _seconds(retry_after: str) -> float:
    """`Retry-After` is a number of seconds or a date; anything else counts as 0."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        moment = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, moment.timestamp() - time.time())
