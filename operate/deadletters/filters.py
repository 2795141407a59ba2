"""Which dead letters a command is about."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from keylane.errors import ContractError
from operate.deadletters.letter import DeadLetter

_STATUS: Final = re.compile(r"none|\d{3}|[1-5]xx")


@dataclass(frozen=True, slots=True)
class Filters:
    """All of them have to hold, each by one of its values; an empty one holds for every letter.

    A status is a number, a class such as `5xx`, or `none` where there was no answer. `since_ms` and
    `until_ms` bound when it was last attempted: from the first on, before the second.
    """

    user: tuple[str, ...] = ()
    reason: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None

    def match(self, letter: DeadLetter) -> bool:
        return (
            (not self.user or letter.user in self.user)
            and (not self.reason or letter.reason in self.reason)
            and (not self.status or any(_is_of(letter.status, one) for one in self.status))
            and (not self.type or letter.type in self.type)
            and (not self.id or letter.id in self.id)
            and (self.since_ms is None or letter.at_ms >= self.since_ms)
            and (self.until_ms is None or letter.at_ms < self.until_ms)
        )

    def as_data(self) -> dict[str, Any]:
        """Only what is set."""
        return {name: value for name, value in asdict(self).items() if value not in ((), None)}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        """Read what `as_data` gave; raises `ContractError`."""
        known = {one.name for one in fields(cls)}
        if not data.keys() <= known:
            # Less would be left out than was asked for.
            raise ContractError(f"unknown filters: {', '.join(sorted(data.keys() - known))}")
        known_as: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**known_as)


def is_status(text: str) -> bool:
    return _STATUS.fullmatch(text) is not None


def _is_of(status: int | None, wanted: str) -> bool:
    if status is None or wanted == "none":
        return status is None and wanted == "none"
    return wanted in {str(status), f"{status // 100}xx"}
