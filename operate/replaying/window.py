"""Which of the kept events a replay takes: when published, of which user, of which type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from keylane.broker import Received
from keylane.event import DEFAULT_TYPE, rfc3339
from keylane.moment import moment_ms

#: Publishers have clocks of their own and send again what was not confirmed, so a partition is not
#: sorted by time: so far beside the window it is looked for events of the window.
SLACK_MS: Final = 60_000
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO: Final = re.compile(r"(?:\d+[smhd])+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """From `from_ms` on and before `to_ms`, by the time of publishing; None takes any."""

    from_ms: int
    to_ms: int
    user: str | None = None
    type: str | None = None

    @property
    def read_from_ms(self) -> int:
        return max(0, self.from_ms - SLACK_MS)

    def is_past(self, message: Received) -> bool:
        """Whether nothing of the window lies behind this message."""
        return message.publish_time_ms >= self.to_ms + SLACK_MS

    def properties_of(self, message: Received) -> dict[str, str] | None:
        """The properties of a message that is wanted; None for any other.

        Raises `UnicodeDecodeError` if they are no text: then nobody can tell its type.
        """
        if not self.from_ms <= message.publish_time_ms < self.to_ms:
            return None
        if self.user is not None and message.key != self.user:
            return None
        properties = message.properties()
        if self.type is not None and (properties.get("ce_type") or DEFAULT_TYPE) != self.type:
            return None
        return properties


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
            f"'{text}' is no time: write 2h, 30m or 3d for so long ago, or 2026-01-31T06:00:00Z"
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
    return sum(int(n) * _UNITS_MS[unit] for n, unit in re.findall(r"(\d+)([smhd])", word))
