"""Events out over HTTP: `keylane dispatch --to http://...` beside bare aiohttp.

Both post the same payloads, 64 at once, to the same receiver, which measures from the first
arrival to the last.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from bench.figures import UNKNOWN, Figure
from bench.machine import memory_mib
from bench.parts import poster, receiver
from bench.processes import LivingPart, run_part
from bench.scale import CONCURRENCY
from bench.stage import HOST, Stage

SECTION: Final = "dispatch over HTTP"
YARDSTICK: Final = "bare aiohttp"


class Webhooks:
    def __init__(self, stage: Stage, target: LivingPart, url: str) -> None:
        self._stage = stage
        self._target = target
        self._url = url
        self._count = stage.scale.http_events
        self._rounds: dict[str, list[float]] = defaultdict(list)

    def run(self) -> list[Figure]:
        topic = self._stage.topic("webhook")
        self._stage.load(topic, self._count)
        for number, arm in self._stage.rounds([self._measure, self._measure_bare]):
            what = "keylane" if arm == self._measure else YARDSTICK
            self._stage.tell(f"{SECTION}, round {number}: {what}")
            arm(topic)
        return self._figures()

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self._figure_of_rate().value

    def _measure(self, topic: str) -> None:
        name = self._stage.name("webhook")
        options = ("--concurrency", str(CONCURRENCY))
        with self._stage.dispatch(topic, name, self._url, *options) as worker:
            self._target.tell(receiver.Expect(self._count, worker.pid))
            arrived = self._target.hear(receiver.Arrived)
            cpu_s = UNKNOWN if arrived.watched_cpu_s is None else arrived.watched_cpu_s
            self._note("cpu", cpu_s * 1e6 / self._count)
            now, peak = memory_mib(worker.pid)
            self._note("memory", now)
            self._note("peak", peak)
        self._note_arrived("", arrived)

    def _measure_bare(self, _topic: str) -> None:
        self._target.tell(receiver.Expect(self._count))
        options = poster.Options(self._url, self._count, CONCURRENCY)
        result = run_part(poster, options, poster.Result)
        self._note("bare cpu", result.cpu_s * 1e6 / self._count)
        self._note("bare peak", result.peak_mib)
        self._note_arrived("bare ", self._target.hear(receiver.Arrived))

    def _note_arrived(self, prefix: str, arrived: receiver.Arrived) -> None:
        self._note(f"{prefix}rate", self._count / arrived.seconds)
        self._note(f"{prefix}receiver", 100 * arrived.cpu_s / arrived.seconds)

    def _note(self, name: str, value: float) -> None:
        self._rounds[name].append(value)

    def _figure_of_rate(self) -> Figure:
        rounds = self._rounds
        return Figure(
            SECTION,
            "events delivered",
            "events/s",
            rounds["rate"],
            YARDSTICK,
            rounds["bare rate"],
            is_more_better=True,
        )

    def _figures(self) -> list[Figure]:
        rounds = self._rounds
        return [
            self._figure_of_rate(),
            Figure(
                SECTION, "worker CPU an event", "us", rounds["cpu"], YARDSTICK, rounds["bare cpu"]
            ),
            Figure(
                SECTION,
                "receiver's share of a core",
                "%",
                rounds["receiver"],
                YARDSTICK,
                rounds["bare receiver"],
            ),
            Figure("memory", "worker after dispatch over HTTP", "MiB", rounds["memory"]),
            Figure(
                "memory",
                "worker at most, dispatch over HTTP",
                "MiB",
                rounds["peak"],
                YARDSTICK,
                rounds["bare peak"],
            ),
        ]


def start_receiver() -> LivingPart:
    return LivingPart(receiver, receiver.Options(HOST))
