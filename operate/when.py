"""Moments and spans as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from keylane.event import rfc3339
from keylane.moment import moment_ms

_UNITS_MS: Final = {
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_AGO: Final = re.compile(r"(?:\d+[smhdw])+")


def moment_of(text: str, now_ms: int) -> int:
    """Of `2h`, `1d12h` (ago), or of an RFC 3339 time, which without a zone is in UTC.

    Raises `ValueError`, in words for whoever typed it.
    """
    if _AGO.fullmatch(word := _spoken(text)):
        return max(0, now_ms - _length_ms(word))
    try:
        return moment_ms(text)
    except ValueError as error:
        raise ValueError(
            f"'{text}' is no time: write 2h, 30m, 3d or 1w for so long ago, or 2026-01-31T06:00:00Z"
        ) from error


def as_asked(text: str) -> str:
    """The same for two ways to write the same: what a run that is repeated is known again by.

    A time that counts from now stays as it is, though it means another moment each time.
    """
    word = _spoken(text)
    return word if not word or _AGO.fullmatch(word) else rfc3339(moment_ms(text))


def _spoken(text: str) -> str:
    return text.strip().lower()


def _length_ms(word: str) -> int:
    return sum(int(n) * _UNITS_MS[unit] for n, unit in re.findall(r"(\d+)([smhdw])", word))


def milliseconds(written: str) -> int:
    """A moment that a program wrote, in ms since 1970; 0 if it is none, or none after 1970."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return 0
    return max(0, round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))


def age(ms: int) -> str:
    """A span, roughly: `45s`, `12m`, `3h`, `5d`."""
    seconds = max(0, ms // 1000)
    for unit, least in (("d", 172_800), ("h", 7200), ("m", 120)):
        if seconds >= least:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{seconds}s"
