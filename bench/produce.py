"""Events in: HTTP to receipt through `keylane ingest`, beside the bare client's producers."""

from __future__ import annotations

from statistics import median
from typing import Final

from bench.arms import Arm
from bench.figures import Figure, per
from bench.machine import memory_mib
from bench.parts import producer
from bench.processes import Keylane, run_part
from bench.scale import BODIES, PARTITIONS, USERS
from bench.stage import Stage
from keylane.event import CORRELATION, Event, new_event_id, to_message

SECTION: Final = "ingest"
YARDSTICK: Final = "bare producers"
#: What they send is then as large, and as much work for the client, as what ingest sends.
LIKE_OURS: Final = "bare producers, such messages"
#: Of the yardstick's rate in bodies of `LARGE` events, on an idle machine.
AT_LEAST: Final = 0.7
LARGE: Final = 100


def measure_single_rate(stage: Stage) -> float:
    """Events a second that ingest accepts in bodies of one, when nothing else is measured."""
    with stage.ingest(stage.topic("single")) as ingest:
        ingest.wait_ready()
        arm = Arm(stage, ingest, 1)
        for number in range(stage.scale.rounds):
            stage.tell(f"bodies of 1, round {number + 1}")
            arm.measure()
    return median(arm.event_rates)


class BareArm:
    """The yardstick, unbatched and as fast as it takes them."""

    def __init__(self, stage: Stage, topic: str, properties: dict[str, str] | None = None) -> None:
        self._stage = stage
        self._topic = topic
        self._properties = properties or {}
        self._results: list[producer.Result] = []

    def measure(self) -> None:
        scale = self._stage.scale
        options = producer.Options(
            self._stage.service_url,
            self._topic,
            PARTITIONS,
            USERS,
            properties=self._properties,
            warm_s=scale.warm_s,
            measure_s=scale.produce_s,
        )
        self._results.append(run_part(producer, options, producer.Result))

    @property
    def event_rates(self) -> list[float]:
        return [result.events / result.seconds for result in self._results]

    @property
    def cpu_us_an_event(self) -> list[float]:
        return [per(result.cpu_s * 1e6, result.events) for result in self._results]

    @property
    def peaks_mib(self) -> list[float]:
        return [result.peak_mib for result in self._results]


class Produce:
    """What ingest accepts, and what it costs, by the number of events in a body."""

    def __init__(self, stage: Stage, ingest: Keylane, topic: str) -> None:
        self._ingest = ingest
        self.bare = BareArm(stage, topic)
        self.like_ours = BareArm(stage, topic, _properties())
        self.arms = {batch: Arm(stage, ingest, batch) for batch in BODIES}

    def figures(self) -> list[Figure]:
        """To be asked for while ingest still runs."""
        figures = [
            self._figure_of_rate(batch, arm, YARDSTICK, self.bare)
            for batch, arm in self.arms.items()
        ]
        large = self.arms[LARGE]
        figures.append(self._figure_of_rate(LARGE, large, LIKE_OURS, self.like_ours))
        for batch, arm in self.arms.items():
            figures += self._figures_of_cpu(batch, arm)
        now, peak = memory_mib(self._ingest.pid)
        return [
            *figures,
            Figure(SECTION, "memory after all rounds", "MiB", [now]),
            Figure(SECTION, "memory at most", "MiB", [peak], YARDSTICK, self.bare.peaks_mib),
        ]

    def _figure_of_rate(self, batch: int, arm: Arm, yardstick: str, bare: BareArm) -> Figure:
        return Figure(
            SECTION,
            f"events accepted, bodies of {batch}",
            "events/s",
            arm.event_rates,
            yardstick,
            bare.event_rates,
            is_more_better=True,
            at_least=AT_LEAST if batch == LARGE else None,
        )

    def _figures_of_cpu(self, batch: int, arm: Arm) -> list[Figure]:
        return [
            Figure(
                SECTION,
                f"CPU an event, bodies of {batch}",
                "us",
                arm.cpu_us_an_event,
                YARDSTICK,
                self.bare.cpu_us_an_event,
            ),
            Figure(
                SECTION,
                f"load client's share of a core, bodies of {batch}",
                "%",
                arm.client_percent,
            ),
        ]


def _properties() -> dict[str, str]:
    """As on the messages of ingest, trace and correlation with them."""
    extensions = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00", CORRELATION: "c" * 32}
    event = Event(new_event_id(), "user", b"", accepted_at_ms=1, extensions=extensions)
    return dict(to_message(event).properties)
