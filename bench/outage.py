"""A destination that is down for a while under load, beside another one that is not.

Events come at a steady rate throughout. What is looked at: what the outage costs its own events
(attempts, dead letters, order, memory), how fast the backlog is delivered afterwards beside the
same worker's speed on a backlog that no outage made, and what the other destination notices.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from bench.figures import Figure, per, percentile
from bench.latency import receiver_url
from bench.machine import memory_mib
from bench.parts import receiver, sender
from bench.processes import Keylane, LivingPart
from bench.scale import CONCURRENCY, PARTITIONS, USERS
from bench.stage import Stage
from bench.waiting import wait_arrived

SECTION: Final = "outage"
_BEFORE: Final = "before it"
_NO_OUTAGE: Final = "a backlog without outage"
_POLL_S: Final = 0.1
#: An event that was delivered so soon was no part of the backlog.
_CAUGHT_UP_S: Final = 0.5
#: The longest pause between two probes is 15 s.
_BACK_WITHIN_S: Final = 90.0


@dataclass(slots=True)
class _Phase:
    """When it began, and what the other destination got in it."""

    began: float
    latencies_ms: list[float] = field(default_factory=list)


class Outage:
    def __init__(self, stage: Stage, failing: LivingPart, healthy: LivingPart) -> None:
        self._stage = stage
        self._failing, self._healthy = failing, healthy
        self._topic = stage.topic(SECTION)
        scale = stage.scale
        self._quiet_s = max(5.0, scale.outage_s / 6)
        self._count = round((2 * self._quiet_s + scale.outage_s) * scale.outage_rate)

    def run(self) -> list[Figure]:
        failing_url = receiver_url(self._failing.hear(receiver.Listening).port)
        healthy_url = receiver_url(self._healthy.hear(receiver.Listening).port)
        options = ("--concurrency", str(CONCURRENCY))
        stage = self._stage
        with (
            stage.dispatch(self._topic, "failing", failing_url, *options) as worker,
            stage.dispatch(self._topic, "healthy", healthy_url, *options) as other,
        ):
            worker.wait_ready()
            other.wait_ready()
            figures = self._measure(worker)
        with stage.dispatch(self._topic, "backlog", failing_url, *options) as worker:
            plain = self._drain_rate(worker)
        return [*figures, self._figure_of_drain(plain)]

    def _measure(self, worker: Keylane) -> list[Figure]:
        scale, tell = self._stage.scale, self._stage.tell
        for target in (self._failing, self._healthy):
            target.tell(receiver.Expect(0))
        options = sender.Options(
            self._stage.service_url, self._topic, PARTITIONS, USERS, 0, self._count,
            scale.outage_rate,
        )  # fmt: skip
        with LivingPart(sender, options) as sending:
            tell(f"{self._count:,} events at {scale.outage_rate:.0f}/s")
            time.sleep(self._quiet_s)
            self._turn(is_down=True)
            down_at = time.monotonic()
            tell(f"the destination is down for {scale.outage_s:g} s")
            peak = self._watch(worker, scale.outage_s)
            turned = self._turn(is_down=False)
            up_at = time.monotonic()
            tell("it is back")
            sent = sending.hear(sender.Result).sent
        self._wait_arrived(self._failing)
        self._wait_arrived(self._healthy)
        metrics = worker.metrics()
        taken = self._take(self._failing)
        order = self._inversions(taken)
        self._rate, self._noticed_s = _recovery(taken, sent, up_at)
        latencies = self._latencies(sent, down_at, up_at)
        return self._figures(turned, metrics, peak, order, latencies)

    def _turn(self, *, is_down: bool) -> receiver.Turned:
        self._failing.tell(receiver.Turn(is_down))
        return self._failing.hear(receiver.Turned)

    def _watch(self, worker: Keylane, seconds: float) -> float:
        """The most memory that it has meanwhile, in MiB beyond what it had before."""
        before, _ = memory_mib(worker.pid)
        peak, end = before, time.monotonic() + seconds
        while time.monotonic() < end:
            peak = max(peak, memory_mib(worker.pid)[0])
            time.sleep(_POLL_S)
        return peak - before

    def _wait_arrived(self, target: LivingPart) -> float:
        wait_arrived(target, self._count, _BACK_WITHIN_S + self._count / 1_000)
        return time.monotonic()

    def _take(self, target: LivingPart) -> receiver.Taken:
        target.tell(receiver.Take())
        return target.hear(receiver.Taken)

    def _inversions(self, taken: receiver.Taken) -> int:
        last: dict[int, int] = {}
        inversions = 0
        for number in taken.numbers:
            user = number % USERS
            inversions += number <= last.get(user, -1)
            last[user] = number
        return inversions

    def _latencies(self, sent: list[float], down_at: float, up_at: float) -> dict[str, list[float]]:
        """Milliseconds of the other destination's events, by what happened meanwhile."""
        taken = self._take(self._healthy)
        phases: dict[str, list[float]] = {_BEFORE: [], "during it": [], "after it": []}
        warm_until = sent[0] + self._quiet_s / 2
        for number, arrived in zip(taken.numbers, taken.moments, strict=True):
            at = sent[number]
            if at < warm_until:
                continue
            name = _BEFORE if at < down_at else "during it" if at < up_at else "after it"
            phases[name].append((arrived - at) * 1000)
        return phases

    def _drain_rate(self, worker: Keylane) -> float:
        """A destination that is new gets everything from the beginning."""
        self._stage.tell("the same events as a backlog, for a destination that was never down")
        self._failing.tell(receiver.Expect(0))
        worker.wait_ready()
        began = time.monotonic()
        return per(self._count, self._wait_arrived(self._failing) - began)

    def _figures(
        self,
        turned: receiver.Turned,
        metrics: dict[str, float],
        memory: float,
        inversions: int,
        latencies: dict[str, list[float]],
    ) -> list[Figure]:
        def plain(name: str, unit: str, value: float, at_most: float | None = None) -> Figure:
            return Figure(SECTION, name, unit, [value], value_at_most=at_most)

        before = latencies.pop(_BEFORE)
        return [
            plain("attempts answered 503", "", turned.refused),
            plain("highest attempt number among them", "", turned.last_attempt, 2),
            plain("back until the first delivery", "s", self._noticed_s),
            plain("dead letters", "", metrics.get("keylane_dead_letters_total", 0.0), 0),
            plain("inversions", "", inversions, 0),
            plain("the worker's memory during it, beyond before", "MiB", memory),
            *(
                Figure(
                    SECTION,
                    f"the other destination's send to delivery p{percent}, {name}",
                    "ms",
                    [percentile(phase, percent)],
                    _BEFORE,
                    [percentile(before, percent)],
                )
                for name, phase in latencies.items()
                for percent in (50, 99)
            ),
        ]

    def _figure_of_drain(self, plain: float) -> Figure:
        return Figure(
            SECTION,
            "backlog delivered after it",
            "events/s",
            [self._rate],
            _NO_OUTAGE,
            [plain],
            is_more_better=True,
        )


def _recovery(taken: receiver.Taken, sent: list[float], up_at: float) -> tuple[float, float]:
    """Events a second until it has caught up, and seconds until the first delivery."""
    arrivals = [
        (at, number) for number, at in zip(taken.numbers, taken.moments, strict=True) if at >= up_at
    ]
    first = arrivals[0][0]
    for count, (at, number) in enumerate(arrivals):
        if at - sent[number] < _CAUGHT_UP_S:
            return per(count, at - first), first - up_at
    return per(len(arrivals), arrivals[-1][0] - first), first - up_at
