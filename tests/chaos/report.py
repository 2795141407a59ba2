"""The table for people, line by line as it comes, and the JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console

from tests.chaos.run import Row

#: Of the JSON's layout; grows when a reader of it would have to change.
LAYOUT: Final = 1
_WIDTH: Final = 24
_COLUMNS: Final = (
    ("seed", 10),
    ("accepted", 8),
    ("delivered", 9),
    ("dead", 5),
    ("lost", 4),
    ("inversions", 10),
    ("overlaps", 8),
    ("duplicates", 10),
    ("late", 4),
    ("stall s", 7),
    ("seconds", 7),
)
_LEGEND: Final = (
    "overlaps and duplicates: explained by the fault/not explained; late: attempts that a worker "
    "started after the broker had given its users to others; stall: the longest wait of a user "
    "whose own events never fail"
)


class Report:
    """Prints each row when it is there, and on a terminal what is going on meanwhile."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self.rows: list[Row] = []

    def begin(self) -> None:
        self._say(_LEGEND)
        self._say("  ".join([f"{'fault':{_WIDTH}}", *(f"{name:>{w}}" for name, w in _COLUMNS)]))

    def doing(self, what: str) -> AbstractContextManager[object]:
        return self._console.status(what)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._say(as_line(row))
        for reason in row.wrong:
            self._say(f"    WRONG: {reason}")
        if row.wrong and row.plan:
            self._say(f"    what was done: {'; '.join(row.plan)}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False)


def as_line(row: Row) -> str:
    values: tuple[object, ...] = (
        row.seed,
        row.accepted,
        row.delivered,
        row.dead_lettered,
        row.lost,
        row.inversions,
        row.overlaps,
        row.duplicates,
        row.late_starts,
        f"{row.stall_s:.1f}",
        f"{row.seconds:.0f}",
    )
    cells = (f"{value!s:>{w}}" for value, (_, w) in zip(values, _COLUMNS, strict=True))
    return "  ".join([f"{row.fault:{_WIDTH}}", *cells])


def as_tree(
    rows: Sequence[Row], seed: int, minutes: float | None, seconds: float, broker: str
) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "seed": seed,
        "minutes": minutes,
        "seconds": round(seconds, 1),
        "versions": {
            "keylane": version("keylane"),
            "pulsar-client": version("pulsar-client"),
            "pulsar": broker,
            "python": platform.python_version(),
        },
        "is_right": not any(row.wrong for row in rows),
        "rows": [asdict(row) for row in rows],
    }
