"""Connections to a Redis, as many as may be busy at once."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection

from keylane.errors import ConfigurationError
from keylane.masking import mask_url


def open_pool(url: str, *, connections: int, timeout_s: float) -> BlockingConnectionPool:
    """Connects when first used; `timeout_s` bounds each wait, for a connection or an answer.

    What is lost with a connection is asked once more on a new one: an idle one may have been closed
    long ago. Raises `ConfigurationError` for a URL that can't be read.
    """
    try:
        return BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1, supported_errors=(LostConnection,)),
        )
    except ValueError as error:
        raise ConfigurationError(f"{mask_url(url)} is no URL of a Redis server: {error}") from error
