"""`http://` and `https://`: a POST of the payload's bytes, with the headers of CloudEvents and
Standard Webhooks.

Redirects are never followed, cookies never kept, proxies of the environment never used, and no more
than a little of the answer is read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from dispatch.delivery import Delivery
from dispatch.destinations.http.answers import Table
from dispatch.destinations.http.connection import connection_to
from dispatch.destinations.http.engine import LibcurlEngine, Limits
from dispatch.destinations.http.guard import Guard
from dispatch.destinations.http.headers import event_headers, header_value
from dispatch.destinations.http.port import Engine
from dispatch.destinations.http.signing import Signer
from dispatch.destinations.opening import Opening
from dispatch.outcome import Forbidden, Outcome
from keylane.destinationsettings import HttpSettings

#: Shorter ones would also be found where they are none.
_MIN_SECRET_CHARACTERS: Final = 4
_REMOVED: Final = "***"


def open_webhook(opening: Opening) -> WebhookDestination:
    """Opens `http://` and `https://`; raises `ConfigurationError`."""
    settings = opening.settings
    return WebhookDestination(
        opening.to,
        timeout_s=opening.timeout_s,
        concurrency=opening.concurrency,
        secret=settings.secret.get_secret_value() if settings.secret else None,
        http=settings.http,
        is_guarded=opening.is_guarded,
    )


class WebhookDestination:
    """Posts to one URL, over kept connections; needs a running event loop.

    `timeout_s` bounds an attempt as a whole. `secret` (`whsec_...`, several with spaces between)
    adds `webhook-signature`. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        concurrency: int,
        secret: str | None = None,
        http: HttpSettings | None = None,
        is_guarded: bool = False,
    ) -> None:
        http = http or HttpSettings()
        connection = connection_to(url, http)
        self._signer = Signer(secret) if secret else None
        self._secrets = _removable([*connection.secrets, *(secret or "").split()])
        self._table = Table(
            http.retry, http.reject, is_proxied=connection.is_proxied, clean=self._clean
        )
        guard = Guard(http.allow) if is_guarded else None
        self._forbidden: Forbidden | None = None
        if guard and connection.is_proxied:
            # The proxy looks names up, and may itself be internal.
            if objection := guard.objection_to_host(connection.host):
                self._forbidden = Forbidden(objection)
            guard = None
        limits = Limits(concurrency, timeout_s, http.connect_timeout_s, http.read_timeout_s)
        self._engine: Engine = LibcurlEngine(
            connection.options, limits, guard, headers=connection.headers
        )

    async def attempt(self, delivery: Delivery) -> Outcome:
        headers = self._request_headers(delivery)
        if self._forbidden is not None:
            return self._forbidden
        answer = await self._engine.post(headers, delivery.event.payload, delivery.may_begin)
        return self._table.outcome(answer)

    async def close(self) -> None:
        await self._engine.close()

    def _request_headers(self, delivery: Delivery) -> list[str]:
        event = delivery.event
        event_id, timestamp = header_value(event.id), str(int(time.time()))
        headers = event_headers(delivery, event, event_id, timestamp)
        if self._signer is not None:
            signature = self._signer.signature(event_id, timestamp, event.payload)
            headers.append(f"webhook-signature: {signature}")
        return headers

    def _clean(self, text: str) -> str:
        """Without the secrets, which an answer may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, _REMOVED)
        return text


def _removable(secrets: Iterable[str]) -> list[str]:
    """Longer ones first: one may be a part of another."""
    told = {secret for secret in secrets if len(secret) >= _MIN_SECRET_CHARACTERS}
    return sorted(told, key=len, reverse=True)
