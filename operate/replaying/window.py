"""Which of the kept events a replay takes: when published, of which user, of which type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keylane.broker import Received
from keylane.event import DEFAULT_TYPE

#: Publishers have clocks of their own and send again what was not confirmed, so a partition is not
#: sorted by time: so far beside the window it is looked for events of the window.
SLACK_MS: Final = 60_000


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
