"""All of ingest: what it accepts, what a request costs, how soon it answers, how it scales.

Every server is there all the time and takes its turn in each round, so that a machine that gets
slower meanwhile makes all alike slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Final

from bench.answered import Answered
from bench.arms import Arm, CheapArm
from bench.figures import Figure
from bench.parts import plain
from bench.processes import Keylane, LivingPart, Server
from bench.produce import LARGE, LIKE_OURS, SECTION, YARDSTICK, Produce
from bench.stage import HOST, Stage

PLAIN: Final = "plain FastAPI"
ON_LOOP: Final = "plain FastAPI, async def"
#: Of the plain server's CPU a request of one event.
CPU_AT_MOST: Final = 1.0
#: Of one process's requests a second, by two.
SCALING_AT_LEAST: Final = 1.6
QUIET: Final = {"KEYLANE_INGEST__ACCESS_LOG": "false"}


class PlainServer:
    """The bench's own server that stores nothing."""

    def __init__(self, part: LivingPart) -> None:
        self._part = part
        self._url = f"http://{HOST}:{part.hear(plain.Listening).port}"

    def url(self) -> str:
        return self._url

    def pids(self) -> list[int]:
        return [self._part.pid]


@contextlib.contextmanager
def plain_server(*, on_loop: bool = False) -> Iterator[PlainServer]:
    with LivingPart(plain, plain.Options(HOST, on_loop)) as part:
        yield PlainServer(part)


class Ingest:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def run(self) -> list[Figure]:
        stage = self._stage
        topic = stage.topic("ingest")
        with contextlib.ExitStack() as servers:
            ingest = servers.enter_context(stage.ingest(topic))
            bystander = servers.enter_context(plain_server())
            on_loop = servers.enter_context(plain_server(on_loop=True))
            rounds = _Rounds(
                stage,
                Produce(stage, ingest, topic),
                plain=Arm(stage, bystander, 1),
                on_loop=Arm(stage, on_loop, 1),
                quiet=Arm(stage, self._ready(servers, stage.ingest(topic, settings=QUIET)), 1),
                deduplicating=Arm(stage, self._ready(servers, self._deduplicating()), LARGE),
                alone=CheapArm(stage, self._ready(servers, stage.memory_ingest()), 1),
                paired=CheapArm(stage, self._ready(servers, stage.memory_ingest(2)), 1),
            )
            ingest.wait_ready()
            rounds.measure()
            figures = rounds.figures()
            half_load = median(rounds.single.request_rates) / 2
            answered = Answered(stage, {SECTION: ingest, PLAIN: bystander}, half_load)
            figures += answered.run()
        return figures

    def _deduplicating(self) -> Keylane:
        return self._stage.ingest(self._stage.topic("deduplicate"), "--deduplicate")

    @staticmethod
    def _ready(servers: contextlib.ExitStack, server: Server) -> Server:
        servers.enter_context(server)
        server.wait_ready()
        return server


class _Rounds:
    """All arms, in turn."""

    def __init__(
        self,
        stage: Stage,
        produce: Produce,
        *,
        plain: Arm,
        on_loop: Arm,
        quiet: Arm,
        deduplicating: Arm,
        alone: Arm,
        paired: Arm,
    ) -> None:
        self._stage = stage
        self._produce = produce
        self.single = produce.arms[1]
        self._plain = plain
        self._on_loop = on_loop
        self._quiet = quiet
        self._deduplicating = deduplicating
        self._alone = alone
        self._paired = paired

    def measure(self) -> None:
        produce = self._produce
        arms: Mapping[str, Callable[[], None]] = {
            YARDSTICK: produce.bare.measure,
            LIKE_OURS: produce.like_ours.measure,
            **{f"bodies of {batch}": arm.measure for batch, arm in produce.arms.items()},
            PLAIN: self._plain.measure,
            ON_LOOP: self._on_loop.measure,
            "without access log": self._quiet.measure,
            "with deduplication": self._deduplicating.measure,
            "1 process": self._alone.measure,
            "2 processes": self._paired.measure,
        }
        for number, (what, measure) in self._stage.rounds(list(arms.items())):
            self._stage.tell(f"{SECTION}, round {number}: {what}")
            measure()

    def figures(self) -> list[Figure]:
        return [
            *self._produce.figures(),
            *self._figures_of_a_request(),
            self._figure_of_deduplication(),
            *self._figures_of_processes(),
        ]

    def _figures_of_a_request(self) -> list[Figure]:
        plain = self._plain.cpu_us
        what = "CPU a request, bodies of 1"
        return [
            Figure(SECTION, what, "us", self.single.cpu_us, PLAIN, plain, at_most=CPU_AT_MOST),
            Figure(
                SECTION,
                f"{what}, nothing in threads",
                "us",
                self.single.cpu_us,
                ON_LOOP,
                self._on_loop.cpu_us,
            ),
            Figure(SECTION, f"{what}, no access log", "us", self._quiet.cpu_us, PLAIN, plain),
            Figure(
                SECTION,
                "requests answered, bodies of 1",
                "1/s",
                self.single.request_rates,
                PLAIN,
                self._plain.request_rates,
                is_more_better=True,
            ),
        ]

    def _figure_of_deduplication(self) -> Figure:
        return Figure(
            SECTION,
            f"events accepted with --deduplicate, bodies of {LARGE}",
            "events/s",
            self._deduplicating.event_rates,
            "without",
            self._produce.arms[LARGE].event_rates,
            is_more_better=True,
        )

    def _figures_of_processes(self) -> list[Figure]:
        alone, paired, where = self._alone, self._paired, "2 processes, in memory"
        return [
            Figure(
                SECTION,
                f"requests answered, {where}",
                "1/s",
                paired.request_rates,
                "1 process",
                alone.request_rates,
                is_more_better=True,
                at_least=SCALING_AT_LEAST,
            ),
            # What two could take if the load client and the broker had cores of their own.
            Figure(
                SECTION,
                f"requests a second of CPU, {where}",
                "1/s",
                paired.requests_a_cpu_s,
                "1 process",
                alone.requests_a_cpu_s,
                is_more_better=True,
                at_least=SCALING_AT_LEAST / 2,
            ),
            Figure(
                SECTION,
                f"load client's share of a core, {where}",
                "%",
                paired.client_percent,
                "1 process",
                alone.client_percent,
            ),
        ]
