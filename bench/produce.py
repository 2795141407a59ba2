"""Events in: HTTP to receipt through `keylane ingest`, beside the bare client's producers."""

from __future__ import annotations

from collections import defaultdict
from typing import Final
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.figures import UNKNOWN, Figure, per
from bench.machine import memory_mib
from bench.parts import load, producer
from bench.processes import Keylane, run_part
from bench.scale import BODIES, PARTITIONS, USERS
from bench.stage import Stage

SECTION: Final = "produce"
YARDSTICK: Final = "bare producers"
_BARE: Final = 0


class Produce:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rounds: dict[str, list[float]] = defaultdict(list)
        self._memory: tuple[float, float] = UNKNOWN, UNKNOWN

    def run(self) -> list[Figure]:
        topic = self._stage.topic(SECTION)
        with self._stage.ingest(topic) as ingest:
            ingest.wait_ready()
            for number, batch in self._stage.rounds([_BARE, *BODIES]):
                what = f"bodies of {batch}" if batch else YARDSTICK
                self._stage.tell(f"{SECTION}, round {number}: {what}")
                if batch:
                    self._measure(ingest, batch)
                else:
                    self._measure_bare(topic)
            self._memory = memory_mib(ingest.pid)
        return self._figures()

    @property
    def single_rate(self) -> float:
        """Events a second in bodies of one."""
        return self._figure_of_rate(1).value

    def _measure(self, ingest: Keylane, batch: int) -> None:
        address = urlsplit(ingest.url())
        scale = self._stage.scale
        options = load.Options(
            address.hostname or "",
            address.port or 0,
            batch,
            BODIES[batch],
            USERS,
            scale.warm_s,
            scale.produce_s,
            ingest.pid,
        )
        result = run_part(load, options, load.Result)
        if result.others or not result.requests:
            raise BenchError(f"ingest accepted {result.requests} and answered {result.others}")
        cpu_us = (UNKNOWN if result.watched_cpu_s is None else result.watched_cpu_s) * 1e6
        self._note(f"rate {batch}", result.requests * batch / result.seconds)
        self._note(f"cpu a request {batch}", cpu_us / result.requests)
        self._note(f"cpu {batch}", cpu_us / result.requests / batch)
        self._note(f"client {batch}", 100 * result.cpu_s / result.seconds)

    def _measure_bare(self, topic: str) -> None:
        scale = self._stage.scale
        options = producer.Options(
            self._stage.service_url,
            topic,
            PARTITIONS,
            USERS,
            warm_s=scale.warm_s,
            measure_s=scale.produce_s,
        )
        result = run_part(producer, options, producer.Result)
        self._note("bare rate", result.events / result.seconds)
        self._note("bare cpu", per(result.cpu_s * 1e6, result.events))
        self._note("bare peak", result.peak_mib)

    def _note(self, name: str, value: float) -> None:
        self._rounds[name].append(value)

    def _figure_of_rate(self, batch: int) -> Figure:
        return Figure(
            SECTION,
            f"events accepted, bodies of {batch}",
            "events/s",
            self._rounds[f"rate {batch}"],
            YARDSTICK,
            self._rounds["bare rate"],
            is_more_better=True,
        )

    def _figures(self) -> list[Figure]:
        figures = [self._figure_of_rate(batch) for batch in BODIES]
        for batch in BODIES:
            figures += self._figures_of_cpu(batch)
        now, peak = self._memory
        return [
            *figures,
            Figure("memory", "ingest after produce", "MiB", [now]),
            Figure("memory", "ingest at most", "MiB", [peak], YARDSTICK, self._rounds["bare peak"]),
        ]

    def _figures_of_cpu(self, batch: int) -> list[Figure]:
        rounds, bodies = self._rounds, f"bodies of {batch}"
        of_requests = rounds[f"cpu a request {batch}"]
        return [
            Figure(SECTION, f"ingest CPU a request, {bodies}", "us", of_requests),
            Figure(
                SECTION,
                f"ingest CPU an event, {bodies}",
                "us",
                rounds[f"cpu {batch}"],
                YARDSTICK,
                rounds["bare cpu"],
            ),
            Figure(
                SECTION, f"load client's share of a core, {bodies}", "%", rounds[f"client {batch}"]
            ),
        ]
