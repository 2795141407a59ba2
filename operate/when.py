"""Moments and spans as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_SPAN: Final = re.compile(r"(\d+)(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment_ms(text: str, now_ms: int) -> int:
    """`2026-01-31T12:00:00Z`, or `2h` for two hours ago, in ms since 1970; raises `ValueError`."""
    if span := _SPAN.fullmatch(text):
        return now_ms - int(span[1]) * _SECONDS[span[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(
            f"'{text}' is no moment: write 2026-01-31T12:00:00Z, with Z or an offset, or how long "
            "ago it is: 90s, 30m, 2h, 7d, 1w"
        )
    return round(moment.astimezone(UTC).timestamp() * 1000)


def milliseconds(rfc3339: str) -> int:
    """A moment that a program wrote, in ms since 1970; 0 if it is none, or none after 1970."""
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return 0
    return max(0, round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))


def age(ms: int) -> str:
    """A span, roughly: `45s`, `12m`, `3h`, `5d`."""
    seconds = max(0, ms // 1000)
    for unit, least in (("d", 172_800), ("h", 7200), ("m", 120)):
        if seconds >= least:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
