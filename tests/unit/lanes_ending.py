"""How every schedule ends: everything succeeds and drains, and then nothing is left anywhere."""

from __future__ import annotations

from dispatch.partition import MAX_STEP_S
from tests.unit.lanes_verify import verify_nothing_is_left
from tests.unit.lanes_worker import Worker
from tests.unit.lanes_world import World

#: Everything is done by then, once everything succeeds.
DRAINS_IN_S = 40.0
SHORTEST_TICK_S, LONGEST_TICK_S = 0.1, 0.8
#: Nobody waits for longer than that for what was given back.
SILENCE_S = 100.0
#: What was finished is remembered for two of these.
GENERATION_S = 61.0


def drain(world: World) -> None:
    """From now on everything succeeds, and all of it is done before long."""
    world.overtaking.clear()
    world.catch_up()
    for worker in world.workers:
        worker.recover_soon(world.now)
    if all(worker.is_dead or worker.is_draining for worker in world.workers):
        world.join()
    end = world.now + DRAINS_IN_S
    tick_s = SHORTEST_TICK_S
    while not _is_drained(world) and world.now < end:
        succeeded = 0
        for which in range(len(world.workers)):
            world.receive(which, 1000)
            succeeded += _succeed(world, which)
        # Where nobody attempts anything, all wait for some time to pass.
        tick_s = SHORTEST_TICK_S if succeeded else min(2 * tick_s, LONGEST_TICK_S)
        world.sleep(tick_s)
    world.check()
    if not _is_drained(world):
        world.judge.breaks(f"it does not drain: {world.told()}")
    world.judge.check_all_done()


def _succeed(world: World, which: int) -> int:
    """How many attempts did."""

    def has(worker: Worker | None) -> bool:
        return worker is not None and bool(worker.running or worker.burying)

    succeeded = 0
    while has(world.pick(which)):
        succeeded += 1
        world.finish(which, "delivered")
        world.bury(which, is_confirmed=True)
    return succeeded


def _is_drained(world: World) -> bool:
    return not world.subscription.backlog() and not any(
        worker.is_busy or not worker.can_reach for worker in world.workers
    )


def check_silence(world: World) -> None:
    """Let a long time pass in which nothing happens; then nothing must be left anywhere."""
    end = world.now + SILENCE_S
    while world.now < end and any(worker.has_lanes for worker in world.workers):
        world.skip(MAX_STEP_S, [worker for worker in world.workers if worker.has_lanes])
    for _ in range(2):
        world.skip(GENERATION_S, world.workers)
    for worker in world.workers:
        verify_nothing_is_left(worker.lanes)
        statistics = worker.lanes.statistics(world.now)
        if not world.judge.is_disturbed:
            assert statistics.late == 0
        if world.judge.is_alone:
            assert statistics.given_back == 0, "a lane is given back though there is nobody else"
