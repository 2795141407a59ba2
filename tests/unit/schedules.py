"""Schedules drawn from a seed: much cheaper than hypothesis', so there can be many of them.

`python -m tests.unit.schedules --seed N` tells one, step by step, and `--shrink` leaves out first
what it doesn't need to fail; `--first N --schedules M` looks through many and stops at the first
that fails.

A seed also draws the world: how wide gates, queues and lanes are, and which of the things that can
go wrong do so at all. Many schedules with a few of them each meet more than all of them at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import Final, TypeAlias

from dispatch.holding import Holding
from tests.unit import lanes_faults
from tests.unit.lanes_ending import check_silence, drain
from tests.unit.lanes_setting import Gated, Setting
from tests.unit.lanes_world import World

USERS = ("Ada", "Bob", "Cy", "Dot", "Eve")
#: Each step is drawn as that many numbers, so that leaving one step out leaves the others alone.
DRAWS = 5
#: How many steps. In the same time those of 25 find most mutants, those of 60 half as many; a few
#: need long ones, and seeds without number.
LENGTHS: Final = (15, 25, 25, 40)
LONG_LENGTHS: Final = (10, 25, 40, 60)
#: From this seed of each world on they are long.
LONG: Final = 4_000
MOST_WORKERS = 4
#: From this seed on there are attempts that do not count, and users that are slow.
SPARING: Final = 1_000_000_000

#: And from this one on users are held after a dead letter.
HOLDING: Final = 2_000_000_000

#: And from this one on the destination answers at once, so that events need no lane.
PASSING: Final = 3_000_000_000

_TRICKLE, _OVERTAKING, _LONG_TAILS, _FAULTY, _ONE_FAULT = 0, 2, 3, 4, 6
_NARROW = frozenset({1, 8, 9})

Draw: TypeAlias = tuple[float, ...]
Action: TypeAlias = Callable[[World, Draw], None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a seed stands for."""

    setting: Setting
    actions: tuple[Action, ...]
    #: Cumulated, to be drawn from.
    weights: tuple[float, ...]
    steps: tuple[Draw, ...]


def run_schedule(
    seed: int, *, trace: Callable[[str], None] | None = None, left_out: Collection[int] = ()
) -> World:
    """One life of a subscription: a schedule, then a drain, then silence. Raises if it breaks."""
    schedule = draw_schedule(seed)
    world = World(schedule.setting)
    world.trace = trace
    if trace:
        trace(str(schedule.setting))
    world.join()
    for index, draw in enumerate(schedule.steps):
        if index in left_out:
            continue
        place = draw[0] * schedule.weights[-1]
        action = next(
            a for a, upto in zip(schedule.actions, schedule.weights, strict=True) if place < upto
        )
        if trace:
            trace(f"step {index}: {action.__name__.strip('_')}")
        action(world, draw[1:])
        world.check()
    if trace:
        trace("from now on everything succeeds")
    drain(world)
    check_silence(world)
    return world


def draw_schedule(seed: int) -> Schedule:
    """Ten kinds of schedules take turns, because each breakage needs a meeting of its own.

    Three have joins only: messages that trickle in, gates that close, new events that overtake. One
    has leaves and long tails; the others have faults, of several sorts or mostly of one.
    """
    rng = Random(seed)
    kind = seed % 10
    weights = dict(_COMMON)
    weights[_fail] *= rng.choice((0.5, 1, 2, 4))
    weights[_join] *= rng.choice((0, 1, 1, 2))
    weights[_overtake] *= 6 if kind == _OVERTAKING else rng.choice((0, 1, 2))
    weights[_refuse] *= rng.choice((0, 1, 2))
    weights[_pass_long] *= rng.choice((0, 0, 1))
    if kind >= _LONG_TAILS:
        weights[_leave] = 3.0 if kind == _LONG_TAILS else rng.choice((0.0, 1.0, 3.0))
    if kind >= _ONE_FAULT:
        fault = rng.choice(tuple(_FAULTS))
        weights[fault] = rng.choice((4.0, 8.0))
    elif kind >= _FAULTY:
        for fault, weight in _FAULTS.items():
            weights[fault] = weight * rng.choice((0, 0, 0, 1, 2))
    setting = _draw_setting(rng, kind)
    if seed >= PASSING:
        # So that there are users who are known and of whom nothing is here.
        weights[_succeed_all] = 60.0
        weights[_publish] *= rng.choice((3.0, 6.0))
        weights[_fail] *= rng.choice((0.05, 0.3))
        setting = _with_passing(setting, rng)
    elif seed >= HOLDING:
        weights[_refuse] = rng.choice((1.0, 3.0))
        weights[_release] = rng.choice((0.0, 0.5))
        setting = _with_held_users(setting, rng)
    elif seed >= SPARING:
        weights[_spare] = rng.choice((1.0, 4.0))
        setting = _with_slow_users(setting, rng)
    lengths = LENGTHS if seed % SPARING < LONG else LONG_LENGTHS
    return Schedule(
        setting,
        tuple(weights),
        tuple(accumulate(weights.values())),
        tuple(tuple(rng.random() for _ in range(DRAWS)) for _ in range(rng.choice(lengths))),
    )


def _draw_setting(rng: Random, kind: int) -> Setting:
    pick = rng.choice
    is_narrow = kind in _NARROW
    is_trickle = kind == _TRICKLE
    has_pages = kind not in {_TRICKLE, _OVERTAKING} and rng.random() < 0.6
    lease_s = pick((4.0, 4.0, 20.0))
    options = Gated(
        concurrency=pick((1, 2) if is_narrow else (1, 2, 3, 8)),
        gate=pick((2, 4) if is_narrow else (4, 48, 48)),
        lane_share=pick((1, 2, 2)),
        max_lane_events=pick((3, 5, 1000) if is_narrow else (5, 1000, 1000)),
        lane_payload_events=pick((1, 2, 4, 1000)) if has_pages else 1000,
        scarce_payload_events=pick((1, 2)),
        payload_budget_bytes=pick((3000, 1 << 30)) if has_pages else 1 << 30,
        quiet_s=pick((0.5, 0.5, 3.0)),
        lease_s=lease_s,
        forget_s=lease_s * 1.5,
    )
    return Setting(
        options,
        users=USERS[: pick((1, 1, 2) if kind <= _LONG_TAILS else (1, 2, 3, 5))],
        max_attempts=pick((2, 3, 4, 50)),
        queue=pick((1, 2) if is_trickle else (1, 2, 4, 50, 50)),
        ack_delay_s=pick((0.0, 0.1, 0.4)),
        nack_delay_s=pick((0.1, 0.134, 0.2)),
        is_eager=not is_trickle and pick((True, True, False)),
        burst=pick((1, 1, 2) if kind == _LONG_TAILS else (1, 2, 500, 500)),
    )


def _with_slow_users(setting: Setting, rng: Random) -> Setting:
    slow_after_s, share = rng.choice((0.1, 0.4, 2.0)), rng.choice((0.3, 0.5))
    options = replace(setting.options, slow_after_s=slow_after_s, slow_share=share)
    return replace(setting, options=options)


def _with_passing(setting: Setting, rng: Random) -> Setting:
    # A worker's shell takes a step every 20 ms; here they are far apart, and the clock that this
    # goes by takes short ones only.
    options = replace(setting.options, fresh_s=1.0)
    return replace(setting, options=options, passes=True, passing_failures=rng.choice((0, 2, 5)))


def _with_held_users(setting: Setting, rng: Random) -> Setting:
    options = replace(setting.options, holding=Holding(dead_letter=True))
    return replace(setting, options=options, table_lag_s=rng.choice((0.02, 0.5, 3.0, 30.0)))


def _of(draw: float, *choices: float) -> float:
    return choices[int(draw * len(choices))]


def _pass_time(world: World, draw: Draw) -> None:
    world.pass_time(_of(draw[0], 0.02, 0.1, 0.2, 0.2, 0.5, 0.5, 1.0, 1.0, 2.5, 4.0))


def _pass_long(world: World, draw: Draw) -> None:
    world.pass_time(_of(draw[0], 6.0, 19.0, 33.0))


def _publish(world: World, draw: Draw) -> None:
    for _ in range(int(_of(draw[1], 1, 1, 2, 6))):
        world.publish(_user(world, draw[0]))


def _overtake(world: World, draw: Draw) -> None:
    world.overtake(_user(world, draw[0]))


def _user(world: World, draw: float) -> str:
    return world.setting.users[int(draw * len(world.setting.users))]


def _receive(world: World, draw: Draw) -> None:
    world.receive(_which(draw[0]), int(_of(draw[1], 1, 2, 5, 50)))


def _succeed(world: World, draw: Draw) -> None:
    for _ in range(int(_of(draw[1], 1, 1, 2, 4))):
        world.finish(_which(draw[0]), "delivered", _which(draw[2]))


def _succeed_all(world: World, draw: Draw) -> None:
    """Nearly everything that a worker has is delivered."""
    for _ in range(20):
        world.finish(_which(draw[0]), "delivered")


def _fail(world: World, draw: Draw) -> None:
    for _ in range(int(_of(draw[1], 1, 1, 2, 4))):
        delay_s = _of(draw[3], 0.1, 0.4, 1.0, 4.0)
        world.finish(_which(draw[0]), "failed", _which(draw[2]), delay_s)


def _spare(world: World, draw: Draw) -> None:
    for _ in range(int(_of(draw[1], 1, 1, 2, 4))):
        # No delay stands for not being counted at all.
        delay_s = _of(draw[3], 0, 0, 0, 0, 0.1, 0.4, 1.0, 4.0)
        outcome = "taken back" if delay_s else "spared"
        world.finish(_which(draw[0]), outcome, _which(draw[2]), delay_s)


def _refuse(world: World, draw: Draw) -> None:
    world.finish(_which(draw[0]), "refused", _which(draw[2]))


def _release(world: World, draw: Draw) -> None:
    world.release(_user(world, draw[0]))


def _bury(world: World, draw: Draw) -> None:
    world.bury(_which(draw[0]), is_confirmed=draw[1] < 0.6, place=_which(draw[2]))


def _join(world: World, _: Draw) -> None:
    if len(world.workers) < MOST_WORKERS:
        world.join()


def _leave(world: World, draw: Draw) -> None:
    if len(world.workers) > 1:
        world.leave(_which(draw[0]))


def _which(draw: float) -> int:
    return int(draw * 12)


def _crash(world: World, draw: Draw) -> None:
    seen_in_s = _of(draw[1], 0, 0, 30, 45)
    lanes_faults.crash(
        world, _which(draw[0]), seen_in_s=seen_in_s, goes_on=(draw[2] < 0.5, draw[3] < 0.5)
    )


def _disconnect(world: World, draw: Draw) -> None:
    lanes_faults.disconnect(world, _which(draw[0]), back_in_s=_of(draw[1], 0.1, 0.3, 1.0, 5.0))


def _unload(world: World, draw: Draw) -> None:
    back_in_s = [_of(d, 0.1, 0.2, 0.4, 1.0, 3.0) for d in draw]
    lanes_faults.unload(world, back_in_s, forgets=draw[3] < 0.3)


def _cut(world: World, draw: Draw) -> None:
    lanes_faults.cut(
        world,
        _which(draw[0]),
        lost_in_s=30 + 30 * draw[1],
        noticed_in_s=_of(draw[2], 5, 20, 40, 60),
        for_s=_of(draw[3], 1, 15, 25, 50, 70),
    )


def _freeze(world: World, draw: Draw) -> None:
    lanes_faults.freeze(
        world,
        _which(draw[0]),
        lost_in_s=30 + 10 * draw[1],
        for_s=_of(draw[2], 0.5, 1.5, 3, 15, 45, 45),
        steps_first=draw[3] < 0.5,
    )


def _freeze_and_unload(world: World, draw: Draw) -> None:
    """Too short for the broker to miss it, but long enough to miss what the broker says."""
    for_s = _of(draw[1], 1.5, 3, 6)
    lanes_faults.freeze(
        world, _which(draw[0]), lost_in_s=30, for_s=for_s, steps_first=draw[2] < 0.5
    )
    lanes_faults.unload(world, [0.1 + draw[2], 0.1 + draw[3]])


_COMMON: Final[dict[Action, float]] = {
    _pass_time: 30,
    _receive: 10,
    _publish: 14,
    _overtake: 2,
    _succeed: 10,
    _fail: 15,
    _refuse: 2,
    _bury: 6,
    _join: 4,
    _pass_long: 1,
}
_FAULTS: Final[dict[Action, float]] = {
    _crash: 2,
    _disconnect: 3,
    _unload: 2,
    _cut: 2,
    _freeze: 3,
    _freeze_and_unload: 2,
}


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201  what the command is for


def main() -> int:
    """The exit code is 1 when something was found."""
    # Imported here because it imports this module.
    from tests.unit.lanes_search import Found, failure_of, first_failure_or_hang, search, shrink

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="tell this one step by step")
    parser.add_argument("--shrink", action="store_true", help="leave out what it does not need")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hangs", action="store_true", help="in one process; find also what hangs")
    asked = parser.parse_args()
    if asked.seed is None:
        seeds = range(asked.first, asked.first + asked.schedules)
        if asked.hangs:
            found = first_failure_or_hang(seeds)
        else:
            found = search(seeds, asked.processes, tells=True)
        if found is None:
            return 0
        _tell(f"seed {found.seed}: {found.error}")
        _tell(f"python -m tests.unit.schedules --shrink --seed {found.seed}")
        return 1
    left_out = shrink(asked.seed) if asked.shrink else frozenset()
    found = Found(asked.seed, failure_of(asked.seed, left_out))
    with suppress(Exception):
        run_schedule(asked.seed, trace=print, left_out=left_out)
    _tell(f"seed {found.seed}: {found.error or 'nothing breaks'}")
    return 1 if found.error else 0


if __name__ == "__main__":
    sys.exit(main())
