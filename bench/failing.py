"""Many users who always fail, each with a few events that wait, beside the healthy ones.

1,000 users in all. What the failing ones cost is their attempts: each goes on trying.
"""

from __future__ import annotations

from typing import Final

from bench.beside import Accepted, Beside, Setup, figures_of
from bench.depth import FOR_EVER
from bench.events import FAILING
from bench.figures import Figure
from bench.processes import Keylane, LivingPart
from bench.scale import USERS
from bench.stage import Stage

SECTION: Final = "users failing"
PERCENTS: Final = (1, 10, 50)
EVENTS_EACH: Final = 20


class Failing:
    def __init__(self, stage: Stage, target: LivingPart, url: str) -> None:
        self._stage = stage
        self._target = target
        self._url = url

    def run(self) -> list[Figure]:
        return [figure for percent in PERCENTS for figure in self._measure(percent)]

    def _measure(self, percent: int) -> list[Figure]:
        failing = USERS * percent // 100
        setup = Setup(
            f"{percent} % of {SECTION}", USERS - failing, FOR_EVER, self._stage.scale.rounds
        )

        def hinder(beside: Beside, worker: Keylane) -> None:
            beside.put("stuck", failing, failing * EVENTS_EACH, FAILING)
            beside.wait_held(worker, failing * EVENTS_EACH)

        arms = Beside(self._stage, self._target, self._url, setup).measure(hinder)
        where = f"{percent} % failing"
        _, beside = arms
        return [
            *figures_of(SECTION, where, self._stage.scale.steady_rate, arms, Accepted()),
            Figure(SECTION, f"failed attempts meanwhile, {where}", "1/s", [beside.failed_a_second]),
        ]
