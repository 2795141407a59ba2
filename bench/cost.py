"""What the scheduler costs, from few users to a million and from shallow lanes to deep ones.

No broker and no destination: CPU an event of one worker's lanes alone. It must not grow with the
users that are known, with those that are held up, nor with the depth of a lane; users who have no
unfinished events must take no memory. What grows is a retry: the lane that it wakes was not touched
for long, and the more there are the less of it is in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.figures import Figure
from bench.parts import scheduler
from bench.parts.scheduler import DEEP_LANES, Situation
from bench.processes import run_part
from bench.scale import Scale
from operate.running import Tell

SECTION: Final = "scheduler"
#: The cost at any size, as a multiple of that at the smallest.
GROWS_AT_MOST: Final[dict[Situation, float]] = {
    "known": 2.0,
    "held up": 2.0,
    "retrying": 5.0,
    "deep": 2.0,
}
#: Bytes of a user without unfinished events: none, but for what doesn't depend on their number.
IDLE_AT_MOST: Final = 1.0
_TRACED_AT_MOST: Final = 100_000
_WITHIN_S: Final = 600.0
_NAMES: Final[dict[Situation, str]] = {
    "known": "CPU an event, {:,} users known",
    "held up": "CPU an event beside {:,} users held up",
    "retrying": "CPU a retry, {:,} users failing",
    "deep": f"CPU an event, {DEEP_LANES} lanes of {{:,}} events",
}


class Cost:
    def __init__(self, scale: Scale, tell: Tell) -> None:
        self._scale = scale
        self._tell = tell

    def run(self) -> list[Figure]:
        scale = self._scale
        return [
            *self._figures("known", scale.known_users),
            *self._figures("held up", scale.held_up_lanes),
            *self._figures("retrying", scale.held_up_lanes),
            *self._figures("deep", scale.lane_events),
            self._memory("known", "memory of an idle user", scale.known_users, IDLE_AT_MOST),
            self._memory("held up", "memory of a user held up with one event", scale.held_up_lanes),
            self._memory("deep", "memory of an event in a deep lane", scale.lane_events),
        ]

    def _figures(self, situation: Situation, sizes: Sequence[int]) -> list[Figure]:
        results = [self._measure(situation, size) for size in sizes]
        sums = [[sum(phases.values()) for phases in result.rounds] for result in results]
        costs = [
            Figure(
                SECTION,
                _NAMES[situation].format(size),
                "us",
                of_rounds,
                f"with {sizes[0]:,}",
                sums[0],
                at_most=GROWS_AT_MOST[situation],
                details=result.rounds[-1],
            )
            for size, result, of_rounds in zip(sizes, results, sums, strict=True)
        ]
        first, *_, last = (result.longest_step_ms for result in results)
        return [
            *costs,
            Figure(
                SECTION,
                f"longest step, {sizes[-1]:,}, {situation}",
                "ms",
                [last],
                f"with {sizes[0]:,}",
                [first],
            ),
        ]

    def _measure(self, situation: Situation, size: int) -> scheduler.Result:
        scale = self._scale
        self._tell(f"{SECTION}: {_NAMES[situation].format(size)}")
        options = scheduler.Options(situation, size, scale.cost_events, scale.rounds)
        return run_part(scheduler, options, scheduler.Result, _WITHIN_S)

    def _memory(
        self,
        situation: Situation,
        name: str,
        sizes: Sequence[int],
        value_at_most: float | None = None,
    ) -> Figure:
        size = min(sizes[-1], _TRACED_AT_MOST)
        self._tell(f"{SECTION}: {name}")
        options = scheduler.Options(situation, size, 0, 0, traces=True)
        result = run_part(scheduler, options, scheduler.Result, _WITHIN_S)
        value = [result.bytes_each]
        return Figure(SECTION, name, "bytes", value, value_at_most=value_at_most)
