"""From POST to 202 at a rate that leaves room, beside a server that stores nothing.

Open-loop: a request is sent at its moment, however slow those before it are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from bench.arms import Serving
from bench.figures import Figure, percentile
from bench.latency import milliseconds
from bench.parts import paced
from bench.processes import run_part
from bench.scale import USERS
from bench.stage import Stage

_CONNECTIONS: Final = 64


class Answered:
    """The first of the servers beside the second one, both at the same rate."""

    def __init__(self, stage: Stage, servers: Mapping[str, Serving], rate: float) -> None:
        self._stage = stage
        self._servers = servers
        self._rate = rate
        self._answered: dict[str, list[float]] = defaultdict(list)
        self._late: list[float] = []

    def run(self) -> list[Figure]:
        for number, name in self._stage.rounds(list(self._servers)):
            self._stage.tell(f"POST to 202 at {self._rate:.0f}/s, round {number}: {name}")
            self._measure(name)
        return self._figures()

    def _measure(self, name: str) -> None:
        scale, address = self._stage.scale, urlsplit(self._servers[name].url())
        warm = round(self._rate * scale.warm_s)
        count = warm + max(1, round(self._rate * scale.latency_s / scale.rounds))
        options = paced.Options(
            address.hostname or "", address.port or 0, self._rate, count, 0, USERS, _CONNECTIONS
        )
        result = run_part(paced, options, paced.Result)
        # Since it was due: what finds no connection free has waited, too.
        self._answered[name] += milliseconds(result.due, result.answered, warm)
        self._late += milliseconds(result.due, result.sent, warm)

    def _figures(self) -> list[Figure]:
        name, yardstick = self._servers
        at = f"at {self._rate:.0f}/s (half load)"
        figures = [
            Figure(
                name,
                f"POST to 202, p{percent} {at}",
                "ms",
                [percentile(self._answered[name], percent)],
                yardstick,
                [percentile(self._answered[yardstick], percent)],
            )
            for percent in (50, 99)
        ]
        late = [percentile(self._late, 99)]
        return [*figures, Figure(name, f"load client behind schedule, p99 {at}", "ms", late)]
