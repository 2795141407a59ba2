"""One user whose events pile up behind one that always fails, beside 1,000 healthy users.

Measured at several depths of the pile: what it costs the others, and what it costs the worker's
memory.
"""

from __future__ import annotations

from typing import Final

from bench.beside import Accepted, Arm, Beside, Setup, figures_of
from bench.events import FAILING
from bench.figures import Figure
from bench.processes import Keylane, LivingPart
from bench.scale import USERS
from bench.stage import Stage

SECTION: Final = "one user stuck"
ACCEPTED: Final = Accepted(throughput_at_least=0.9, p99_at_most=1.5)
#: Of the worker's memory for each event held.
BYTES_AT_MOST: Final = 400.0
#: From this depth on the payloads that a worker keeps of one user, and what its memory varies by,
#: are little beside what it holds.
DEEP: Final = 100_000
#: A head that fails for ever and is never given up, about one attempt in 5 s.
FOR_EVER: Final = (
    *("--max-attempts", "1000000"),
    *("--backoff-min", "1"),
    *("--backoff-max", "5"),
)
_MIB: Final = 1024 * 1024


class Depth:
    def __init__(self, stage: Stage, target: LivingPart, url: str) -> None:
        self._stage = stage
        self._target = target
        self._url = url

    def run(self) -> list[Figure]:
        return [figure for depth in self._stage.scale.depths for figure in self._measure(depth)]

    def _measure(self, depth: int) -> list[Figure]:
        setup = Setup(
            f"{SECTION} with {depth:,} events",
            USERS,
            (*FOR_EVER, "--max-lane-events", str(2 * max(self._stage.scale.depths))),
            self._stage.scale.rounds,
        )

        def hinder(beside: Beside, worker: Keylane) -> None:
            beside.put("stuck", 1, depth, FAILING)
            beside.wait_held(worker, depth)

        arms = Beside(self._stage, self._target, self._url, setup).measure(hinder)
        where = f"{depth:,} events stuck"
        rate = self._stage.scale.steady_rate
        return [*figures_of(SECTION, where, rate, arms, ACCEPTED), _memory(depth, arms)]


def _memory(depth: int, arms: tuple[Arm, Arm]) -> Figure:
    alone, beside = arms
    return Figure(
        SECTION,
        f"worker's memory an event held, {depth:,} events stuck",
        "bytes",
        [(beside.memory_mib - alone.memory_mib) * _MIB / depth],
        value_at_most=BYTES_AT_MOST if depth >= DEEP else None,
        details={"before, MiB": alone.memory_mib, "after, MiB": beside.memory_mib},
    )
