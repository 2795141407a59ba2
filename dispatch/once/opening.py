"""From the URL of a store to the store."""

from __future__ import annotations

from dispatch.once.book import OnceCounts
from dispatch.once.memory import MemoryStore
from dispatch.once.store import DeliveryStore
from dispatch.once.topic import TopicStore
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.masking import mask_url
from keylane.names import deliveries_topic


class Stores:
    """The store of one worker's destination, which outlives a destination that is opened anew.

    `counts` is what all of them together came to.
    """

    def __init__(self) -> None:
        self.counts = OnceCounts()
        self._stores: dict[str, DeliveryStore] = {}

    def get(
        self, url: str, *, broker: Broker, topic: str, destination: str, ttl_s: float
    ) -> DeliveryStore:
        """As `open_store`; closing what it returns does nothing."""
        if url not in self._stores:
            self._stores[url] = open_store(
                url, broker=broker, topic=topic, destination=destination, ttl_s=ttl_s
            )
        return _Lent(self._stores[url])

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()


class _Lent:
    def __init__(self, store: DeliveryStore) -> None:
        self.open = store.open
        self.begin = store.begin
        self.finish = store.finish
        self.ttl_s, self.who = store.ttl_s, store.who

    async def close(self) -> None:
        """It is closed by whoever lent it."""


_SCHEMES = ("redis", "rediss", "unix")


def open_store(
    url: str, *, broker: Broker, topic: str, destination: str, ttl_s: float
) -> DeliveryStore:
    """The store of a URL: `memory:`, `redis(s)://`, `pulsar:` or `pulsar+redis(s)://`.

    Connects when first used, or with `open`. Raises `ConfigurationError` for a URL that can't be
    read.
    """
    if url == "memory:":
        return MemoryStore(ttl_s=ttl_s)
    remembering = TopicStore(broker, deliveries_topic(topic, destination), ttl_s=ttl_s)
    if url == "pulsar:":
        return remembering
    is_backed = url.startswith("pulsar+")
    address = url.removeprefix("pulsar+")
    if address.partition("://")[0] not in _SCHEMES:
        raise ConfigurationError(
            f"'{mask_url(url)}' is no store of deliveries: write memory:, redis://HOST, "
            "rediss://HOST, pulsar: or pulsar+redis://HOST"
        )
    from dispatch.once.redisstore import RedisStore  # the client takes 0.1 s to import

    redis = RedisStore(address, ttl_s=ttl_s)
    if not is_backed:
        return redis
    from dispatch.once.backed import BackedStore

    return BackedStore(redis, remembering)
