"""Events out to nothing: `keylane dispatch --to discard:` beside a bare receive and acknowledge.

And beside a worker's own consumers without lanes, which tells what the order costs. Each on a
subscription of its own on the same topic, and without the first tenth of the events: a worker whose
connections are new lets every user settle for two seconds, which is told by itself. The worker is
watched through its `/metrics`, twice a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from bench.errors import BenchError
from bench.figures import Figure, Sample, drain_span, next_pause_s, per
from bench.machine import cpu_s, memory_mib
from bench.parts import consumer, unordered
from bench.processes import Keylane, run_part
from bench.stage import Stage

SECTION: Final = "dispatch to nothing"
YARDSTICK: Final = "bare receive, acknowledge"
UNORDERED: Final = "its consumers without lanes"
#: Of the yardstick's rate, on an idle machine.
AT_LEAST: Final = 0.9
_DRAINED_WITHIN_S: Final = 120.0


class Drain:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = stage.scale.drain_events
        self._rates: list[float] = []
        self._cpu_us: list[float] = []
        self._starts_s: list[float] = []
        self._memory: list[tuple[float, float]] = []
        self._bare: list[consumer.Result] = []
        self._unordered: list[consumer.Result] = []

    def run(self) -> list[Figure]:
        topic = self._stage.topic("drain")
        self._stage.load(topic, self._count)
        self._stage.tell(f"{SECTION}: reading the topic once, unmeasured")
        self._run_bare(topic)
        arms: dict[str, Callable[[str], None]] = {
            "keylane": self._measure,
            YARDSTICK: self._measure_bare,
            UNORDERED: self._measure_unordered,
        }
        for number, what in self._stage.rounds(list(arms), self._stage.scale.drain_rounds):
            self._stage.tell(f"{SECTION}, round {number}: {what}")
            arms[what](topic)
        return self._figures()

    def _measure(self, topic: str) -> None:
        with self._stage.dispatch(topic, self._stage.name("nothing"), "discard:") as worker:
            watch = _Watch(worker, self._count)
            span = watch.until_drained()
            self._rates.append(span.rate)
            self._starts_s.append(span.start_s)
            self._cpu_us.append(watch.cpu_us_an_event())
            self._memory.append(memory_mib(worker.pid))

    def _measure_bare(self, topic: str) -> None:
        self._bare.append(self._run_bare(topic))

    def _run_bare(self, topic: str) -> consumer.Result:
        return run_part(consumer, self._options(topic, "bare"), consumer.Result)

    def _measure_unordered(self, topic: str) -> None:
        options = self._options(topic, "unordered")
        self._unordered.append(run_part(unordered, options, consumer.Result))

    def _options(self, topic: str, what: str) -> consumer.Options:
        count, name = self._count, self._stage.name(what)
        service_url = self._stage.service_url
        return consumer.Options(service_url, topic, name, count, _unmeasured(count))

    def _figures(self) -> list[Figure]:
        bare, without = self._bare, self._unordered
        return [
            self._figure_of_rate("events acknowledged", self._rates, YARDSTICK, bare, AT_LEAST),
            self._figure_of_rate("events acknowledged", self._rates, UNORDERED, without),
            self._figure_of_rate(
                "acknowledged without lanes", self._rates_of(without), YARDSTICK, bare
            ),
            Figure(SECTION, "until the first tenth is done, at most", "s", self._starts_s),
            self._figure_of_cpu("worker CPU an event", self._cpu_us, YARDSTICK, bare),
            self._figure_of_cpu("worker CPU an event", self._cpu_us, UNORDERED, without),
            Figure(
                "memory",
                "worker after dispatch to nothing",
                "MiB",
                [now for now, _ in self._memory],
            ),
            Figure(
                "memory",
                "worker at most, dispatch to nothing",
                "MiB",
                [peak for _, peak in self._memory],
                YARDSTICK,
                [result.peak_mib for result in bare],
            ),
        ]

    def _figure_of_rate(
        self,
        name: str,
        rates: list[float],
        yardstick: str,
        results: list[consumer.Result],
        at_least: float | None = None,
    ) -> Figure:
        return Figure(
            SECTION,
            name,
            "events/s",
            rates,
            yardstick,
            self._rates_of(results),
            is_more_better=True,
            at_least=at_least,
        )

    def _figure_of_cpu(
        self, name: str, cpu_us: list[float], yardstick: str, results: list[consumer.Result]
    ) -> Figure:
        theirs = [result.cpu_s * 1e6 / result.events for result in results]
        return Figure(SECTION, name, "us", cpu_us, yardstick, theirs)

    def _rates_of(self, results: list[consumer.Result]) -> list[float]:
        return [result.events / result.seconds for result in results]


def _unmeasured(count: int) -> int:
    return count // 10


class _Span(NamedTuple):
    """`rate` from the first sample behind the unmeasured events on; `start_s` until that one."""

    rate: float
    start_s: float


class _Watch:
    """Samples of one worker's counters, from before its first event on."""

    def __init__(self, worker: Keylane, total: int) -> None:
        self._worker = worker
        self._total = total
        self._samples: list[Sample] = []
        self._cpu: dict[int, float] = {}

    def until_drained(self) -> _Span:
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        while (sample := self._look()).acknowledged < self._total:
            if time.monotonic() > deadline:
                break
            time.sleep(next_pause_s(self._rate(), self._total - sample.acknowledged))
        began, ended = drain_span(self._samples, self._total)
        first = next(s for s in self._samples if s.acknowledged >= _unmeasured(self._total))
        rate = per(self._total - first.acknowledged, ended - first.at)
        return _Span(rate, first.at - began)

    def _look(self) -> Sample:
        counted = self._worker.metrics()
        # The moment of the answer: what takes time is the wait for the worker's turn before it.
        sample = Sample(
            time.monotonic(),
            int(counted["keylane_received_total"]),
            int(counted["keylane_acknowledged_total"]),
        )
        if sample.acknowledged > self._total or counted["keylane_late_arrivals_total"]:
            raise BenchError(f"the worker acknowledged more than there is, or reordered: {sample}")
        if sample.received:
            self._cpu[sample.acknowledged] = cpu_s(self._worker.pid)
        self._samples.append(sample)
        return sample

    def _rate(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        before, now = self._samples[-2:]
        return per(now.acknowledged - before.acknowledged, now.at - before.at)

    def cpu_us_an_event(self) -> float:
        """Between the first sample behind the unmeasured ones and the last one."""
        last = max(self._cpu)
        first = min(done for done in self._cpu if done >= _unmeasured(self._total))
        return per((self._cpu[last] - self._cpu[first]) * 1e6, last - first)
