"""What a webhook's request costs: our destination beside bare clients, without a broker.

All post the same bodies of 330 bytes, 64 at once, to one receiver in another process.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Final, get_args

from bench.figures import Figure
from bench.latency import receiver_url
from bench.parts import http, receiver
from bench.processes import run_part
from bench.scale import CONCURRENCY, Scale, interleaved
from bench.webhook import AT_LEAST, start_receiver
from operate.running import Tell

SECTION: Final = "webhook client"
OURS: Final = "keylane"
#: As ours is. It is judged beside the better one of them.
ON_A_LOOP: Final[tuple[http.Client, ...]] = ("aiohttp", "pycurl on asyncio")
CLIENTS: Final[tuple[http.Client, ...]] = get_args(http.Client)


class Clients:
    def __init__(self, scale: Scale, tell: Tell) -> None:
        self._scale = scale
        self._tell = tell
        self._rates: dict[str, list[float]] = defaultdict(list)
        self._costs: dict[str, list[float]] = defaultdict(list)

    def run(self) -> list[Figure]:
        with start_receiver() as target:
            url = receiver_url(target.hear(receiver.Listening).port)
            for number, client in interleaved(CLIENTS, self._scale.rounds):
                self._tell(f"{SECTION}, round {number}: {client}")
                self._measure(client, url)
        return self._figures()

    def _measure(self, client: http.Client, url: str) -> None:
        count = self._scale.http_events
        result = run_part(http, http.Options(client, url, count, CONCURRENCY), http.Result)
        self._rates[client].append(count / result.seconds)
        self._costs[client].append(result.cpu_s * 1e6 / count)

    def _figures(self) -> list[Figure]:
        figures = []
        better = max(ON_A_LOOP, key=lambda client: median(self._rates[client]))
        for bare in CLIENTS:
            if bare != OURS:
                name, costs = "CPU a request", self._costs
                figures += [
                    Figure(
                        SECTION,
                        "requests",
                        "requests/s",
                        self._rates[OURS],
                        f"bare {bare}",
                        self._rates[bare],
                        is_more_better=True,
                        at_least=AT_LEAST if bare == better else None,
                    ),
                    Figure(SECTION, name, "us", costs[OURS], f"bare {bare}", costs[bare]),
                ]
        return figures
