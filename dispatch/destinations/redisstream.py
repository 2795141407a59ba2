"""`redis://HOST/DB?stream=NAME` appends each event to a stream of Redis.

`XADD` is not repeated by itself: a connection lost in between leaves open whether the entry is
there. The next attempt appends it once more, with the same `id` and a higher `attempt`.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as NoAnswer

from dispatch.delivery import Delivery
from dispatch.destinations.opening import Opening
from dispatch.outcome import Delivered, Disabled, Outcome, Refused, Unavailable
from keylane.errors import ConfigurationError
from keylane.masking import mask_url

#: A round trip holds one; more of them only queue at the server.
MAX_CONNECTIONS: Final = 16
MAX_REASON_CHARACTERS: Final = 200


class RedisStreamDestination:
    """Appends to one stream. `max_entries` keeps about so many of the newest, `None` all."""

    def __init__(
        self,
        pool: BlockingConnectionPool,
        stream: str,
        *,
        max_entries: int | None,
        timeout_s: float,
    ) -> None:
        self._redis = Redis(connection_pool=pool)
        self._pool = pool
        self._stream = stream
        self._max_entries = max_entries
        self._timeout_s = timeout_s

    async def attempt(self, delivery: Delivery) -> Outcome:
        event = delivery.event
        fields: dict[str, str | bytes | int] = {
            "id": event.id,
            "user": event.user,
            "type": event.type,
            "source": event.source,
            "time": event.time,
            "payload": event.payload,
            "attempt": delivery.attempt,
            "position": delivery.position,
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.xadd(self._stream, fields, maxlen=self._max_entries)  # type: ignore[arg-type]
        except (TimeoutError, NoAnswer):
            return Unavailable("no answer within the timeout", may_be_down=True, is_overload=True)
        except (RedisError, OSError) as error:
            return _outcome(error)
        return Delivered()

    async def close(self) -> None:
        await self._redis.aclose()
        await self._pool.disconnect()


def _outcome(error: Exception) -> Outcome:
    """What is wrong with the login or the stream is wrong for every event."""
    reason = f"Redis: {error}"[:MAX_REASON_CHARACTERS]
    if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)):
        return Disabled(reason)
    if isinstance(error, LostConnection):
        return Unavailable(reason, is_down=True)
    if isinstance(error, ResponseError):
        said = str(error)
        if said.startswith("WRONGTYPE"):
            return Disabled(reason)
        if said.startswith("Protocol error: invalid bulk length"):
            return Refused(reason)
    # Loading, read-only, out of memory, a failing disk: all may pass.
    return Unavailable(reason, is_down=True)


def open_redis_stream(opening: Opening) -> RedisStreamDestination:
    """Raises `ConfigurationError` for a URL that names no server or no stream."""
    url, stream, max_entries = _read(opening.to, f"destination '{opening.destination}'")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=min(MAX_CONNECTIONS, opening.concurrency),
            timeout=opening.timeout_s,
            socket_timeout=opening.timeout_s,
            socket_connect_timeout=opening.timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{mask_url(opening.to)} is no URL of a Redis server") from error
    return RedisStreamDestination(
        pool, stream, max_entries=max_entries, timeout_s=opening.timeout_s
    )


def _read(to: str, name: str) -> tuple[str, str, int | None]:
    """The URL as Redis' client wants it, the stream, and how many entries stay."""
    parts = urlsplit(to)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    stream = query.pop("stream", "")
    if not stream or not parts.hostname:
        raise ConfigurationError(f"{name}: write redis://HOST:6379/0?stream=NAME")
    kept = query.pop("maxlen", None)
    if kept is not None and not (kept.isascii() and kept.isdigit() and int(kept) > 0):
        raise ConfigurationError(f"{name}: maxlen should be a whole number above 0")
    if unknown := set(query) - {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}:
        raise ConfigurationError(
            f"{name}: {', '.join(sorted(unknown))} is not known in a redis URL: there is stream, "
            "maxlen, ssl_ca_certs, ssl_certfile and ssl_keyfile"
        )
    url = parts._replace(query=urlencode(query)).geturl()
    return url, stream, None if kept is None else int(kept)
