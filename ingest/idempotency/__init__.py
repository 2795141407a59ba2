"""Requests with an `Idempotency-Key`, and events with an id of their own, are stored once."""

from __future__ import annotations

from ingest.idempotency.records import BadIdempotencyKey
from ingest.idempotency.repeats import Acceptance, Attempt, Repeats
from ingest.idempotency.store import Store, StoreDown, open_store

__all__ = [
    "Acceptance",
    "Attempt",
    "BadIdempotencyKey",
    "Repeats",
    "Store",
    "StoreDown",
    "open_store",
]
