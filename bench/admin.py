"""The few calls to the broker's admin interface that a run makes itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from urllib.request import Request, urlopen

from bench.errors import BenchError
from bench.scale import PARTITIONS
from keylane.settings import PulsarSettings, Settings
from operate.topics import setup

_NAMESPACE = "admin/v2/persistent/public/default"


def version(admin_url: str) -> str:
    return _call("GET", f"{admin_url}/admin/v2/brokers/version").decode().strip()


def create_topic(service_url: str, admin_url: str, topic: str) -> None:
    """As `keylane topic setup` does it."""
    pulsar = PulsarSettings(service_url=service_url, admin_url=admin_url)
    asyncio.run(setup(Settings(topic=topic, pulsar=pulsar), PARTITIONS, []))


def delete_topics(admin_url: str, topics: Collection[str]) -> None:
    """Delete these partitioned topics and the dead-letter topics that belong to them."""
    for topic in topics:
        _call("DELETE", f"{admin_url}/{_NAMESPACE}/{topic}/partitions?force=true")
    left = json.loads(_call("GET", f"{admin_url}/{_NAMESPACE}"))
    for name in (str(full).rpartition("/")[2] for full in left):
        if any(name.startswith(f"{topic}-") for topic in topics):
            _call("DELETE", f"{admin_url}/{_NAMESPACE}/{name}?force=true")


def _call(method: str, url: str) -> bytes:
    try:
        with urlopen(Request(url, method=method), timeout=30) as answer:
            body: bytes = answer.read()
    except OSError as error:
        raise BenchError(f"the broker's admin interface did not do {method}: {error}") from error
    return body
