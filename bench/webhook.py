"""Events out over HTTP: `keylane dispatch --to http://...` beside bare loops that do as much.

All take the same events from the topic, post them, 64 at once, to the same receiver, which measures
from the first arrival to the last, and acknowledge them. The bare ones keep no order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

from bench.figures import UNKNOWN, Figure
from bench.machine import memory_mib
from bench.parts import deliverer, receiver
from bench.processes import LivingPart, run_part
from bench.scale import CONCURRENCY
from bench.stage import HOST, Stage

SECTION: Final = "dispatch over HTTP"
AIOHTTP: Final = "bare aiohttp"
LIBCURL: Final = "bare libcurl"
#: Of the better one's, on an idle machine.
AT_LEAST: Final = 0.7
_OURS: Final = "keylane"


class Webhooks:
    def __init__(self, stage: Stage, target: LivingPart, url: str) -> None:
        self._stage = stage
        self._target = target
        self._url = url
        self._count = stage.scale.http_events
        self._rounds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def run(self) -> list[Figure]:
        topic = self._stage.topic("webhook")
        self._stage.load(topic, self._count)
        arms: dict[str, Callable[[str], None]] = {
            _OURS: self._measure,
            AIOHTTP: partial(self._measure_bare, AIOHTTP),
            LIBCURL: partial(self._measure_bare, LIBCURL),
        }
        for number, what in self._stage.rounds(list(arms)):
            self._stage.tell(f"{SECTION}, round {number}: {what}")
            arms[what](topic)
        return self._figures()

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return median(self._rounds[_OURS, "rate"])

    def _measure(self, topic: str) -> None:
        name = self._stage.name("webhook")
        options = ("--concurrency", str(CONCURRENCY))
        with self._stage.dispatch(topic, name, self._url, *options) as worker:
            self._target.tell(receiver.Expect(self._count, worker.pid))
            arrived = self._target.hear(receiver.Arrived)
            cpu_s = UNKNOWN if arrived.watched_cpu_s is None else arrived.watched_cpu_s
            now, peak = memory_mib(worker.pid)
            self._note(_OURS, "memory", now)
        self._note_arrived(_OURS, arrived, cpu_s, peak)

    def _measure_bare(self, what: str, topic: str) -> None:
        self._target.tell(receiver.Expect(self._count))
        options = deliverer.Options(
            self._stage.service_url,
            topic,
            self._stage.name("bare"),
            self._url,
            self._count,
            CONCURRENCY,
            what == LIBCURL,
        )
        result = run_part(deliverer, options, deliverer.Result)
        arrived = self._target.hear(receiver.Arrived)
        self._note_arrived(what, arrived, result.cpu_s, result.peak_mib)

    def _note_arrived(
        self, what: str, arrived: receiver.Arrived, cpu_s: float, peak: float
    ) -> None:
        self._note(what, "rate", self._count / arrived.seconds)
        self._note(what, "receiver", 100 * arrived.cpu_s / arrived.seconds)
        self._note(what, "cpu", cpu_s * 1e6 / self._count)
        self._note(what, "peak", peak)

    def _note(self, what: str, name: str, value: float) -> None:
        self._rounds[what, name].append(value)

    def _figures(self) -> list[Figure]:
        rounds = self._rounds
        better = max((AIOHTTP, LIBCURL), key=lambda what: median(rounds[what, "rate"]))
        figures = [
            figure
            for what in (AIOHTTP, LIBCURL)
            for figure in self._figures_beside(what, is_better=what == better)
        ]
        return [
            *figures,
            Figure("memory", "worker after dispatch over HTTP", "MiB", rounds[_OURS, "memory"]),
            Figure(
                "memory",
                "worker at most, dispatch over HTTP",
                "MiB",
                rounds[_OURS, "peak"],
                better,
                rounds[better, "peak"],
            ),
        ]

    def _figures_beside(self, what: str, *, is_better: bool) -> list[Figure]:
        rounds = self._rounds
        return [
            Figure(
                SECTION,
                "events delivered",
                "events/s",
                rounds[_OURS, "rate"],
                what,
                rounds[what, "rate"],
                is_more_better=True,
                at_least=AT_LEAST if is_better else None,
            ),
            Figure(
                SECTION,
                "worker CPU an event",
                "us",
                rounds[_OURS, "cpu"],
                what,
                rounds[what, "cpu"],
            ),
            Figure(
                SECTION,
                "receiver's share of a core",
                "%",
                rounds[_OURS, "receiver"],
                what,
                rounds[what, "receiver"],
            ),
        ]


def start_receiver() -> LivingPart:
    return LivingPart(receiver, receiver.Options(HOST))
