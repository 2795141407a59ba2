"""What the scheduler costs, in a process whose memory holds nothing else.

One situation of one size: it is brought about, left alone for a while, then measured round by
round.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Literal, TypeAlias

import msgspec

from bench.parts import child
from bench.simulated import BATCH, STEP_S, Message, Simulation, Users
from dispatch.partition import FINISHED_KEPT_S

#: Users of the traffic beside held-up lanes.
_HEALTHY: Final = 1_000
#: Lanes that are deep: few, so that their events fit into memory.
DEEP_LANES: Final = 5
#: Retries that come due in one step.
_RETRIES: Final = 500
_NEVER_S: Final = 1e6

#: known: users had events before, a few have now. held up: the first event of each failed and
#: waits, others have traffic. retrying: the same, measured by their retries. deep: lanes get events
#: at their end while their first ones are finished.
Situation: TypeAlias = Literal["known", "held up", "retrying", "deep"]


class Options(msgspec.Struct):
    situation: Situation
    #: Users, or events of one lane.
    size: int
    #: Events, or retries, that are measured in each round.
    count: int
    rounds: int
    #: Measure memory instead; that makes everything slow.
    traces: bool = False


class Result(msgspec.Struct):
    #: Microseconds of CPU an event by what for, of each round.
    rounds: list[dict[str, float]]
    longest_step_ms: float
    #: That the situation takes, for each of its size; 0 if that was not measured.
    bytes_each: float


class _Scene:
    def __init__(self, options: Options) -> None:
        self._size = options.size
        # The same events in each run.
        self._random = random.Random(options.size)
        is_deep = options.situation == "deep"
        self.healthy = Users("user", 1, options.size if options.situation == "known" else _HEALTHY)
        self.hindered = Users("stuck", 2, DEEP_LANES if is_deep else options.size)
        self._span_s = max(STEP_S, options.size / _RETRIES * STEP_S)
        delays: dict[Situation, Callable[[], float]] = {
            "held up": lambda: _NEVER_S,
            "retrying": lambda: self._random.uniform(0.0, self._span_s),
        }
        delay_s = delays.get(options.situation, lambda: _NEVER_S)
        self.simulation = Simulation(self.healthy, self.hindered, delay_s)
        self.simulation.fails = not is_deep

    def bring_about(self, situation: Situation) -> int:
        """Returns of how much there is one."""
        match situation:
            case "known":
                _serve(self.simulation, map(self.healthy.of, range(self._size)))
                # Until nothing of it is remembered.
                self.simulation.pass_time(2 * FINISHED_KEPT_S + 1)
            case "held up":
                _serve(self.simulation, map(self.hindered.of, range(self._size)))
            case "retrying":
                _serve(self.simulation, map(self.hindered.of, range(self._size)))
                self.simulation.pass_time(min(self._span_s, 10.0))
            case "deep":
                count = self._size * DEEP_LANES
                for batch in _batches(map(self.hindered.of, self._turns(count))):
                    self.simulation.hold(batch)
                return count
        return self._size

    def _turns(self, count: int) -> Iterator[int]:
        return (number % DEEP_LANES for number in range(count))

    def measure(self, situation: Situation, count: int) -> dict[str, float]:
        """One round; what an event cost, by what for."""
        simulation = self.simulation
        simulation.spent_ns.clear()
        simulation.acknowledged = simulation.failed = 0
        if situation == "retrying":
            while simulation.failed < count:
                simulation.step([])
        else:
            _serve(simulation, self._traffic(situation, count))
        done = simulation.failed if situation == "retrying" else simulation.acknowledged
        return {name: ns / 1000 / done for name, ns in simulation.spent_ns.items()}

    def _traffic(self, situation: Situation, count: int) -> Iterator[tuple[int, Message]]:
        if situation == "deep":
            return map(self.hindered.of, self._turns(count))
        users = self._size if situation == "known" else _HEALTHY
        return (self.healthy.of(self._random.randrange(users)) for _ in range(count))


def _batches(events: Iterator[tuple[int, Message]]) -> Iterator[list[tuple[int, Message]]]:
    while batch := list(islice(events, BATCH)):
        yield batch


def _serve(simulation: Simulation, events: Iterator[tuple[int, Message]]) -> None:
    for batch in _batches(events):
        simulation.step(batch)


def _run(options: Options) -> Result:
    scene = _Scene(options)
    if options.traces:
        return Result([], 0.0, _bytes_each(scene, options.situation))
    scene.bring_about(options.situation)
    scene.simulation.longest_step_ns = 0
    rounds = [scene.measure(options.situation, options.count) for _ in range(options.rounds)]
    return Result(rounds, scene.simulation.longest_step_ns / 1e6, 0.0)


def _bytes_each(scene: _Scene, situation: Situation) -> float:
    tracemalloc.start()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    count = scene.bring_about(situation)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return (after - before) / count


if __name__ == "__main__":
    child.tell(_run(child.begin(Options)))
