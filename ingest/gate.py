"""What a request passes on its way in; made once for a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ingest.address import Network
from ingest.door import Door
from ingest.idempotency import Repeats
from ingest.keys import KeyRing
from ingest.metrics import Metrics
from ingest.rate import RateLimits
from ingest.siblings import Siblings
from ingest.topics import Topics
from keylane.event import Event

CheckSchemas: TypeAlias = Callable[[list[Event]], int]


@dataclass(frozen=True, slots=True)
class Gate:
    """In the order in which a request meets them, but for the metrics, which it always meets."""

    door: Door
    trusted_proxies: Sequence[Network]
    keys: KeyRing
    rates: RateLimits
    repeats: Repeats
    #: Says how many payloads don't fit, or refuses them; None if nobody asks.
    check_schemas: CheckSchemas | None
    topics: Topics
    metrics: Metrics
    siblings: Siblings
