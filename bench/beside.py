"""Healthy users served by one worker, first alone, then beside users who hinder.

The same worker, topic, users, events and rates both times, so that the ratio says what the others
cost them. Served twice over: at a steady rate that leaves room, which tells the latency, and as
fast as the events are sent, which tells the throughput.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.crowd import PATIENCE_S, Crowd, Served
from bench.figures import Figure, per
from bench.machine import memory_mib
from bench.parts import producer
from bench.processes import Keylane, LivingPart, run_part
from bench.scale import CONCURRENCY, PARTITIONS
from bench.stage import Stage
from bench.waiting import counted, wait_for

YARDSTICK: Final = "without them"
#: For so long after a worker connected the first event of each user waits for one before it.
_FRESH_S: Final = 3.0
_SETTLED_S: Final = 1.0
_EVENTS_PUT_A_SECOND: Final = 2_000


@dataclass(frozen=True, slots=True)
class Setup:
    """How one worker is measured. The users who hinder are named `kind`."""

    what: str
    healthy_users: int
    options: tuple[str, ...]
    """Of `keylane dispatch`."""
    rounds: int
    patience_s: float = PATIENCE_S


@dataclass(slots=True)
class Arm:
    """Healthy users' events without the others, or beside them."""

    steady: Served = field(default_factory=Served)
    burst: Served = field(default_factory=Served)
    memory_mib: float = 0.0
    """Of the worker, at rest, before they were sent beside the others; after, without them."""
    failed_a_second: float = 0.0
    """Attempts that the receiver failed meanwhile."""


class Beside:
    """One worker that is measured."""

    def __init__(self, stage: Stage, target: LivingPart, url: str, setup: Setup) -> None:
        self._stage = stage
        self._target = target
        self._url = url
        self._setup = setup
        self.topic = stage.topic("beside")
        self._crowd = Crowd(stage, target, self.topic, setup.healthy_users)

    def measure(self, hinder: Callable[[Beside, Keylane], None]) -> tuple[Arm, Arm]:
        """Returns what was without the others and what was beside them.

        `hinder` puts their events on the topic and returns once they are in the way.
        """
        options = ("--concurrency", str(CONCURRENCY), *self._setup.options)
        name = self._stage.name("beside")
        with self._stage.dispatch(self.topic, name, self._url, *options) as worker:
            worker.wait_ready()
            scale = self._stage.scale
            warm = max(1, round(scale.steady_rate * _FRESH_S))
            self._crowd.send(Served(), warm, scale.steady_rate)
            self._crowd.send(Served(), scale.burst)
            alone = self._serve("alone")
            alone.memory_mib = _memory_at_rest(worker)
            self._tell("the others come")
            hinder(self, worker)
            memory = _memory_at_rest(worker)
            beside = self._serve("beside the others")
            beside.memory_mib = memory
        return alone, beside

    def put(self, kind: str, users: int, count: int, first: int) -> None:
        """Put events of other users on the topic as ingest would have."""
        options = producer.Options(
            self._stage.service_url,
            self.topic,
            PARTITIONS,
            users,
            as_ingest=True,
            count=count,
            first=first,
            kind=kind,
        )
        within_s = 60 + count / _EVENTS_PUT_A_SECOND
        run_part(producer, options, producer.Result, within_s)

    def wait_held(self, worker: Keylane, count: int) -> None:
        """Until the worker holds so many unfinished events."""
        wait_for(
            lambda: worker.metrics()["keylane_events"],
            count,
            60 + count / _EVENTS_PUT_A_SECOND,
            "the worker holds {:,.0f} of {:,} events; no more come",
        )

    def wait_slow(self, count: int) -> None:
        """Until so many attempts wait for their answer."""
        saying = "{} of {} slow attempts were started"
        wait_for(lambda: counted(self._target).slow, count, 60, saying)

    def _serve(self, where: str) -> Arm:
        arm, scale, setup = Arm(), self._stage.scale, self._setup
        began, failed = time.monotonic(), counted(self._target).failed
        for number in range(1, setup.rounds + 1):
            self._tell(f"healthy users {where}, round {number}")
            count = max(1, round(scale.steady_rate * scale.steady_s))
            self._crowd.send(arm.steady, count, scale.steady_rate, setup.patience_s)
            self._crowd.send(arm.burst, scale.burst, patience_s=setup.patience_s)
        failed = counted(self._target).failed - failed
        arm.failed_a_second = per(failed, time.monotonic() - began)
        return arm

    def _tell(self, what: str) -> None:
        self._stage.tell(f"{self._setup.what}: {what}")


def _memory_at_rest(worker: Keylane) -> float:
    time.sleep(_SETTLED_S)
    now, _ = memory_mib(worker.pid)
    return now


@dataclass(frozen=True, slots=True)
class Accepted:
    """Ratios that are accepted on an idle machine."""

    throughput_at_least: float | None = None
    p99_at_most: float | None = None


def figures_of(
    section: str, where: str, rate: float, arms: tuple[Arm, Arm], accepted: Accepted
) -> list[Figure]:
    """Healthy users' throughput and latency beside what they are without the others."""
    alone, beside = arms
    throughput = Figure(
        section,
        f"healthy users' throughput, {where}",
        "events/s",
        beside.burst.rates,
        YARDSTICK,
        alone.burst.rates,
        is_more_better=True,
        at_least=accepted.throughput_at_least,
    )
    return [
        throughput,
        *(
            Figure(
                section,
                f"send to delivery p{percent}, {how}, {where}",
                "ms",
                [of_beside.percentile_ms(percent)],
                YARDSTICK,
                [of_alone.percentile_ms(percent)],
                at_most=accepted.p99_at_most
                if percent == 99 and of_beside is beside.steady
                else None,
            )
            for how, of_beside, of_alone in (
                (f"{rate:.0f}/s", beside.steady, alone.steady),
                ("at once", beside.burst, alone.burst),
            )
            for percent in (50, 99)
        ),
    ]
