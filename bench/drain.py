"""Events out to nothing: `keylane dispatch --to discard:` beside a bare receive and acknowledge.

Both from the first event received to the last one acknowledged, each on a subscription of its own
on the same topic. The worker is watched through its `/metrics`, ten times a second.
"""

from __future__ import annotations

import time
from typing import Final

from bench.errors import BenchError
from bench.figures import Figure, Sample, drain_span, next_pause_s, per
from bench.machine import cpu_s, memory_mib
from bench.parts import consumer
from bench.processes import Keylane, run_part
from bench.stage import Stage

SECTION: Final = "dispatch to nothing"
YARDSTICK: Final = "bare receive, acknowledge"
#: Of the yardstick's rate, on an idle machine.
AT_LEAST: Final = 0.9
_DRAINED_WITHIN_S: Final = 120.0


class Drain:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._count = stage.scale.drain_events
        self._rates: list[float] = []
        self._cpu_us: list[float] = []
        self._memory: list[tuple[float, float]] = []
        self._bare: list[consumer.Result] = []

    def run(self) -> list[Figure]:
        topic = self._stage.topic("drain")
        self._stage.load(topic, self._count)
        self._stage.tell(f"{SECTION}: reading the topic once, unmeasured")
        self._run_bare(topic)
        for number, arm in self._stage.rounds([self._measure, self._measure_bare]):
            what = "keylane" if arm == self._measure else YARDSTICK
            self._stage.tell(f"{SECTION}, round {number}: {what}")
            arm(topic)
        return self._figures()

    def _measure(self, topic: str) -> None:
        with self._stage.dispatch(topic, self._stage.name("nothing"), "discard:") as worker:
            watch = _Watch(worker, self._count)
            began, ended = watch.until_drained()
            self._rates.append(self._count / (ended - began))
            self._cpu_us.append(watch.cpu_us_an_event())
            self._memory.append(memory_mib(worker.pid))

    def _measure_bare(self, topic: str) -> None:
        self._bare.append(self._run_bare(topic))

    def _run_bare(self, topic: str) -> consumer.Result:
        options = consumer.Options(
            self._stage.service_url, topic, self._stage.name("bare"), self._count
        )
        return run_part(consumer, options, consumer.Result)

    def _figures(self) -> list[Figure]:
        bare = self._bare
        return [
            Figure(
                SECTION,
                "events acknowledged",
                "events/s",
                self._rates,
                YARDSTICK,
                [self._count / result.seconds for result in bare],
                is_more_better=True,
                at_least=AT_LEAST,
            ),
            Figure(
                SECTION,
                "worker CPU an event",
                "us",
                self._cpu_us,
                YARDSTICK,
                [result.cpu_s * 1e6 / self._count for result in bare],
            ),
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


class _Watch:
    """Samples of one worker's counters, from before its first event on."""

    def __init__(self, worker: Keylane, total: int) -> None:
        self._worker = worker
        self._total = total
        self._samples: list[Sample] = []
        self._cpu: dict[int, float] = {}

    def until_drained(self) -> tuple[float, float]:
        deadline = time.monotonic() + _DRAINED_WITHIN_S
        while (sample := self._look()).acknowledged < self._total:
            if time.monotonic() > deadline:
                break
            time.sleep(next_pause_s(self._rate(), self._total - sample.acknowledged))
        return drain_span(self._samples, self._total)

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
        """Between the first sample within the run and the last one."""
        first, last = min(self._cpu), max(self._cpu)
        return per((self._cpu[last] - self._cpu[first]) * 1e6, last - first)
