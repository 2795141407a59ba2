"""Dead letters counted by why they were given up and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keylane.event import rfc3339
from operate.deadletters.letter import DeadLetter


@dataclass(slots=True)
class Group:
    """`oldest_ms` and `newest_ms` are when one was last attempted, in ms since 1970."""

    reason: str
    user: str
    count: int
    oldest_ms: int
    newest_ms: int

    def as_data(self) -> dict[str, Any]:
        return {
            "reason": self.reason,
            "user": self.user,
            "dead_letters": self.count,
            "oldest_at": rfc3339(self.oldest_ms),
            "newest_at": rfc3339(self.newest_ms),
        }


@dataclass(slots=True)
class Groups:
    """What is kept of each letter is its part in these figures."""

    _groups: dict[tuple[str, str], Group] = field(default_factory=dict)

    def add(self, letter: DeadLetter) -> None:
        key = letter.reason, letter.user
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = Group(*key, 1, letter.at_ms, letter.at_ms)
            return
        group.count += 1
        group.oldest_ms = min(group.oldest_ms, letter.at_ms)
        group.newest_ms = max(group.newest_ms, letter.at_ms)

    @property
    def letters(self) -> int:
        return sum(group.count for group in self._groups.values())

    @property
    def users(self) -> set[str]:
        return {user for _, user in self._groups}

    def largest(self, limit: int | None = None) -> list[Group]:
        """The largest first; so many at most."""
        found = sorted(self._groups.values(), key=lambda g: (-g.count, g.reason, g.user))
        return found[:limit]

    def __len__(self) -> int:
        return len(self._groups)
