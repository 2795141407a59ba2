"""`Retry-After` (RFC 9110): seconds, or a date."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

#: Nobody means more; how much of it is granted the retry policy decides.
MAX_WISH_S: Final = 10.0 * 366 * 24 * 3600
_MAX_DIGITS: Final = 10


def retry_after_s(value: str | None) -> float | None:
    """How long to wait, never negative; none for what is neither (`120.1`, `-5`, `soon`)."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), MAX_WISH_S) if len(value) <= _MAX_DIGITS else MAX_WISH_S
    try:
        moment = parsedate_to_datetime(value)
        wish_s = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, wish_s), MAX_WISH_S)
