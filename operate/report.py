"""The demo's result, as a table for people or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from rich import box
from rich.table import Table

from operate.console import console
from operate.verdict import Evidence, Expectation, Row, Sent

_COLUMNS: Final = ("user", "destination", "delivered", "retried", "dead-lettered", "in order")


@dataclass(frozen=True, slots=True)
class Report:
    """`missing` says in sentences what is not as promised; nothing if all is."""

    broker: str
    events: int
    rows: list[Row]
    missing: list[str]
    took_s: float

    @classmethod
    def of(
        cls,
        broker: str,
        sent: Sequence[Sent],
        evidence: Sequence[Evidence],
        unacknowledged: int,
        expected: Expectation,
        took_s: float,
    ) -> Self:
        rows = [row for one in evidence for row in one.rows(sent)]
        missing = [sentence for one in evidence for sentence in expected.unmet(sent, one)]
        if unacknowledged:
            missing.append(f"{unacknowledged} events are unacknowledged at the broker")
        return cls(
            broker, len(sent), sorted(rows, key=lambda row: row.user), missing, round(took_s, 1)
        )

    def print(self, *, as_json: bool) -> None:
        """To standard output."""
        if as_json:
            sys.stdout.write(json.dumps(self.as_dict()) + "\n")
            return
        console().print(self._table())
        console().print("\n".join(self._conclusion()))

    def as_dict(self) -> dict[str, object]:
        return {
            "ok": not self.missing,
            "broker": self.broker,
            "events": self.events,
            "users": [row.as_dict() for row in self.rows],
            "missing": self.missing,
            "took_s": self.took_s,
        }

    def _table(self) -> Table:
        table = Table(*_COLUMNS, box=box.SIMPLE_HEAD)
        for row in self.rows:
            table.add_row(
                row.user,
                row.destination,
                ", ".join(row.delivered),
                str(row.retried or ""),
                ", ".join(row.dead_lettered),
                "yes" if row.in_order else "NO",
            )
        return table

    def _conclusion(self) -> list[str]:
        if self.missing:
            return ["Not as promised:", *(f"  {sentence}" for sentence in self.missing)]
        where = "on Apache Pulsar" if self.broker == "pulsar" else "in memory, nothing durable"
        return [
            f"As promised: {self.events} events, each delivered in its user's order at both",
            f"destinations, or dead-lettered before the next one ({where}, {self.took_s:g} s).",
        ]
