"""Which messages a subscription has done with, as the broker's admin interface tells it."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from keylane.place import EntryId

#: `(11:4..11:6]`: behind the first up to and with the second.
_RANGE: Final = re.compile(r"\((-?\d+):(-?\d+)\.\.(-?\d+):(-?\d+)\]")


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """`through` and all before it, and what lies in the ranges behind it."""

    through: EntryId
    _after: list[EntryId]
    _upto: list[EntryId]

    @classmethod
    def of(cls, cursor: Mapping[str, Any]) -> Self:
        """Read what `PulsarAdmin.cursor` gives."""
        ranges = _RANGE.findall(str(cursor["individuallyDeletedMessages"]))
        found = sorted((EntryId(int(a), int(b)), EntryId(int(c), int(d))) for a, b, c, d in ranges)
        return cls(
            EntryId.read(str(cursor["markDeletePosition"])),
            [after for after, _ in found],
            [upto for _, upto in found],
        )

    def has(self, entry: EntryId) -> bool:
        if entry <= self.through:
            return True
        # The last range that begins before it.
        index = bisect.bisect_left(self._after, entry) - 1
        return index >= 0 and entry <= self._upto[index]
