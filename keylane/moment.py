"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

#: Where a new destination can start beside at a moment.
EARLIEST: Final = "earliest"
LATEST: Final = "latest"


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time; one without a zone is in UTC.

    A date alone is its midnight. Raises `ValueError`.
    """
    moment = datetime.fromisoformat(text.strip().upper())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
