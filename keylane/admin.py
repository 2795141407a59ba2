"""The broker's admin REST interface: the few calls that setting up and looking on need.

Only here is known how Pulsar spells them. Each is tried again until a deadline while the broker
starts, moves a topic or cannot be reached, and a topic's owner is followed through redirects.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import orjson
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
    wait_random,
)
from yarl import URL

from keylane.credentials import credentials_of
from keylane.errors import BrokerError, BrokerUnavailable
from keylane.masking import mask_url
from keylane.moment import EARLIEST, LATEST, moment_ms
from keylane.names import full_topic
from keylane.place import EntryId
from keylane.settings import PulsarSettings
from keylane.tls import broker_context

#: Redirects of one call; an owner is one step away, more means that the topic is moving.
MAX_REDIRECTS: Final = 5
#: How long calls are repeated while the broker does not do what was asked.
DEADLINE_S: Final = 30.0
#: How Pulsar writes the position before the first message.
_EARLIEST: Final = {"ledgerId": -1, "entryId": -1, "partitionIndex": -1}
#: And the one behind the last.
_LATEST: Final = {"ledgerId": 2**63 - 1, "entryId": 2**63 - 1, "partitionIndex": -1}
_OK: Final = 200
_NO_CONTENT: Final = 204
_REDIRECT: Final = frozenset({301, 302, 307, 308})
_DENIED: Final = frozenset({401, 403})
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_PRECONDITION: Final = 412
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


class _Transient(Exception):  # noqa: N818  named by the fact
    """Worth another try; says what happened."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the interface says; `date` is the broker's clock as its web server writes it."""

    status: int
    body: Any
    date: str = ""

    @property
    def reason(self) -> str:
        given = self.body.get("reason") if isinstance(self.body, Mapping) else self.body
        return f"{self.status} {given or ''}".strip()


class PulsarAdmin:
    """A session with the admin interface, to be used as an async context manager.

    Every call raises `BrokerUnavailable` when it was not done by the deadline, and `BrokerError`
    when the broker refuses it. Opening raises `ConfigurationError` when a certificate or a key
    can't be used.
    """

    def __init__(self, pulsar: PulsarSettings, *, deadline_s: float = DEADLINE_S) -> None:
        self._url = pulsar.admin_url.rstrip("/")
        self._credentials = credentials_of(pulsar)
        self._context = broker_context(pulsar)
        self._timeout_s = pulsar.operation_timeout_s
        self._deadline_s = deadline_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            json_serialize=lambda body: orjson.dumps(body).decode(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session:
            await self._session.close()

    async def wait_until_healthy(self) -> None:
        """Return once the broker stores and reads back a message of its own."""
        await self._call("GET", "brokers/health")

    async def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has: 0 if it is not partitioned, None if it is absent."""
        answer = await self._call(
            "GET", f"{_path(topic)}/partitions?checkAllowAutoCreation=false", accept={_NOT_FOUND}
        )
        return None if answer.status == _NOT_FOUND else int(answer.body["partitions"])

    async def create_partitioned_topic(self, topic: str, partitions: int) -> bool:
        """False if a topic of that name was there already."""
        return await self._create("PUT", f"{_path(topic)}/partitions", partitions)

    async def grow_topic(self, topic: str, partitions: int) -> None:
        """Add partitions; keys move, because a key's partition depends on their number."""
        await self._call("POST", f"{_path(topic)}/partitions", partitions)

    async def create_topic(self, topic: str) -> bool:
        """Create a topic without partitions; false if it was there already."""
        return await self._create("PUT", _path(topic), None)

    async def subscriptions(self, topic: str) -> list[str]:
        """The subscriptions of a topic without partitions, or of one partition."""
        answer = await self._call("GET", f"{_path(topic)}/subscriptions")
        return [str(name) for name in answer.body]

    async def create_subscription(
        self, topic: str, subscription: str, start: str = EARLIEST
    ) -> bool:
        """Subscribe from the earliest message that is kept; false if it was there already.

        Or from the latest, or from the first that was published at `start` (RFC 3339) or later.
        """
        path, name = _path(topic), quote(subscription, safe="")
        return await self._create(
            "PUT", f"{path}/subscription/{name}", await self._place(path, start)
        )

    async def _place(self, path: str, start: str) -> Any:
        if start in {EARLIEST, LATEST}:
            return _EARLIEST if start == EARLIEST else _LATEST
        # Asked for beforehand, because a subscription that is moved after it was made would stay
        # at the earliest message if this process ended in between.
        found = (await self._call("GET", f"{path}/messageid/{moment_ms(start)}")).body
        return _EARLIEST | {name: found[name] for name in ("ledgerId", "entryId")}

    async def policy(self, topic: str, name: str) -> Any:
        """What the topic's policy is set to; None if it is not set on the topic itself."""
        return (await self._call("GET", f"{_path(topic)}/{name}")).body

    async def set_policy(self, topic: str, name: str, value: Any) -> None:
        """Set a policy; `name` may end in a query. In force only some time later."""
        await self._call("POST", f"{_path(topic)}/{name}", value)

    async def stats(self, topic: str) -> dict[str, Any]:
        """The broker's statistics of a topic without partitions, or of one partition."""
        answer = await self._call("GET", f"{_path(topic)}/stats?subscriptionBacklogSize=false")
        return dict(answer.body)

    async def subscription_stats(self, topic: str, subscription: str) -> dict[str, Any] | None:
        """The statistics of one subscription, such as `msgBacklog`; None if it is absent."""
        found = (await self.stats(topic))["subscriptions"].get(subscription)
        return None if found is None else dict(found)

    async def cursor(self, topic: str, subscription: str) -> dict[str, Any] | None:
        """Which messages a subscription has acknowledged; None if it is absent.

        All up to `markDeletePosition`, and the ranges in `individuallyDeletedMessages`.
        """
        found = (await self._internal_stats(topic))["cursors"].get(subscription)
        return None if found is None else dict(found)

    async def last_entry(self, topic: str) -> EntryId:
        """That of the newest message; -1 for the entry where a ledger has none yet."""
        return EntryId.read(str((await self._internal_stats(topic))["lastConfirmedEntry"]))

    async def _internal_stats(self, topic: str) -> dict[str, Any]:
        return dict((await self._call("GET", f"{_path(topic)}/internalStats")).body)

    async def get(self, path: str) -> dict[str, Any] | None:
        """The object at a path below `/admin/v2/`; None if there is none."""
        answer = await self._call("GET", path, accept={_NOT_FOUND})
        return None if answer.status == _NOT_FOUND else dict(answer.body)

    async def ask(self, path: str) -> Answer:
        """The answer to a GET below `/admin/v2/`, a refusal as well."""
        return await self._call("GET", path, accept=range(_OK, _SERVER_ERROR))

    async def ask_of(self, topic: str, what: str) -> Answer:
        """The same of a topic without partitions, of one partition, or of the whole."""
        return await self.ask(f"{_path(topic)}/{what}")

    async def delete_partitioned_topic(self, topic: str) -> None:
        """Delete it with all that it holds, though somebody is connected; gone is as good."""
        await self._call("DELETE", f"{_path(topic)}/partitions?force=true", accept={_NOT_FOUND})

    async def _create(self, method: str, path: str, body: Any) -> bool:
        answer = await self._call(method, path, body, accept={_CONFLICT})
        return answer.status != _CONFLICT

    async def _call(
        self, method: str, path: str, body: Any = None, accept: Collection[int] = ()
    ) -> Answer:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_delay(self._deadline_s),
            wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
            reraise=True,
        )
        try:
            answer: Answer = await retrying(self._once, method, path, body)
        except _Transient as error:
            raise BrokerUnavailable(
                f"The broker's admin interface at {mask_url(self._url)} did not do what it was "
                f"asked within {self._deadline_s:g} s ({error}). Start the broker, or correct "
                "KEYLANE_PULSAR__ADMIN_URL, and try again."
            ) from error
        if answer.status in {_OK, _NO_CONTENT, *accept}:
            return answer
        raise _refusal(method, path, answer)

    async def _once(self, method: str, path: str, body: Any) -> Answer:
        try:
            answer = await self._follow(
                method, URL(f"{self._url}/admin/v2/{path}", encoded=True), body
            )
        except aiohttp.ClientConnectorCertificateError as error:
            # Asking again would hear the same.
            raise BrokerUnavailable(
                f"The broker's admin interface at {mask_url(self._url)} is not trusted "
                f"({_why_not_trusted(error)}); nothing was sent. Correct "
                "KEYLANE_PULSAR__TLS_TRUST_CERTS or KEYLANE_PULSAR__ADMIN_URL."
            ) from error
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise _Transient(str(error) or "no answer in time") from error
        if _is_transient(method, answer):
            raise _Transient(answer.reason)
        return answer

    async def _follow(self, method: str, url: URL, body: Any) -> Answer:
        if self._session is None:
            raise RuntimeError("use PulsarAdmin with `async with`")
        # Followed by hand: aiohttp would drop the token on the way to another broker.
        headers = {"content-type": "application/json"}
        if self._credentials:
            # Anew each time: it may have been replaced. Beside the loop: an issuer may be asked.
            token = await asyncio.to_thread(self._credentials.token)
            headers["authorization"] = f"Bearer {token}"
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.request(
                method, url, json=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status not in _REDIRECT:
                    said = _decoded(await response.read())
                    return Answer(response.status, said, response.headers.get("date", ""))
                url = url.join(URL(response.headers.get("location", ""), encoded=True))
        raise _Transient(f"redirected more than {MAX_REDIRECTS} times")


def _path(topic: str) -> str:
    tenant, namespace, name = full_topic(topic).removeprefix("persistent://").split("/")
    return f"persistent/{quote(tenant, safe='')}/{quote(namespace, safe='')}/{quote(name, safe='')}"


def _decoded(body: bytes) -> Any:
    """Empty stands for "not set"; an error of the web server in front is no JSON."""
    # A page says no more than the status.
    if not body or body.startswith(b"<"):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")[:200]


def _why_not_trusted(error: aiohttp.ClientConnectorCertificateError) -> str:
    found = error.certificate_error
    return found.verify_message if isinstance(found, ssl.SSLCertVerificationError) else str(found)


def _is_transient(method: str, answer: Answer) -> bool:
    if answer.status >= _SERVER_ERROR or answer.status == _TOO_MANY:
        return True
    if method == "POST" and answer.status == _CONFLICT:
        # Somebody changed it at the same moment; on a PUT it means "is there already".
        return True
    if answer.status == _PRECONDITION and "subscription busy" in answer.reason.lower():
        # Somebody makes the same subscription, or joins it, in the same moment.
        return True
    # A broker that is just starting has not made its first namespace yet.
    return answer.status == _NOT_FOUND and "namespace" in answer.reason.lower()


def _refusal(method: str, path: str, answer: Answer) -> BrokerError:
    said = f"The broker refuses {method} {path.partition('?')[0]} ({answer.reason})"
    if answer.status in _DENIED:
        return BrokerError(
            f"{said}: not authorized. Set KEYLANE_PULSAR__TOKEN to one that may administer topics."
        )
    if "policies is disabled" in answer.reason:
        return BrokerError(
            f"{said}: set topicLevelPoliciesEnabled=true and systemTopicEnabled=true in its "
            "configuration."
        )
    return BrokerError(f"{said}.")
