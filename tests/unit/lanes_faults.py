"""What goes wrong with processes, connections and topics in the lanes' world."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.unit.lanes_world import World


def crash(
    world: World,
    which: int,
    *,
    seen_in_s: float,
    goes_on: Sequence[bool],
    is_overtaken: bool = False,
) -> None:
    """A process dies; the broker sees that at once, or takes a machine for alive for a while.

    The destination is left with its attempts: each ends a second later, taken or not. With
    `is_overtaken` whatever else the broker sends goes out before what it held, until
    `World.catch_up`.
    """
    worker = world.pick(which)
    if worker is None:
        return
    world.say(f"{worker.name} crashes")
    world.judge.is_disturbed = True
    world.judge.is_alone = False
    world.judge.orphan([*worker.running, *worker.condemned.values()])
    for place, attempt in enumerate(worker.running):
        is_taken = goes_on[place % len(goes_on)]
        world.ghosts.append((world.now + 1.0, attempt, is_taken))
    worker.running, worker.burying, worker.starting = [], [], []
    worker.lose_mail()
    worker.is_dead = True
    worker.heals_at = worker.thaws_at = worker.notices_at = worker.connects_at = math.inf
    worker.next_at = math.inf
    if seen_in_s or worker.is_cut:
        worker.lost_at = min(worker.lost_at, world.now + max(seen_in_s, 30.0))
    else:
        world.subscription.is_slow = is_overtaken
        worker.is_let_go()
        world.subscription.is_slow = False
    world.follow(worker)
    world.settle()


def disconnect(world: World, which: int, *, back_in_s: float) -> None:
    """Its connection is reset, and both ends see it."""
    worker = world.pick(which)
    if worker and worker.can_reach:
        world.judge.is_disturbed = True
        world.judge.is_alone = False
        worker.is_let_go()
        worker.notice(world.now, back_in_s)
        world.turn(worker)


def unload(world: World, back_in_s: Sequence[float], *, forgets: bool = False) -> None:
    """The broker gives the topic up and loads it again: everybody has to come back.

    With `forgets` it died, and some acknowledgements above a hole were not saved.
    """
    if any(worker.is_cut and worker.is_member for worker in world.workers):
        # Only its lease would hold such a one back, and not soon enough.
        return
    world.say("the topic is unloaded" + " after a crash" * forgets)
    world.judge.is_disturbed = True
    world.judge.is_alone = False
    world.judge.forget_counts()
    if forgets:
        world.judge.unknown |= world.subscription._acknowledged
        world.subscription._acknowledged.clear()
    for worker in world.workers:
        if worker.is_member:
            worker.loses_place()
    world.subscription.unload()
    world.log.start_ledger()
    for place, worker in enumerate(list(world.workers)):
        if worker.is_frozen:
            # Not shorter, or nothing could tell it from a step that took long.
            worker.thaws_at = max(worker.thaws_at, worker.stepped_at + 1.1)
        elif not (worker.is_dead or worker.is_cut):
            worker.notice(world.now, back_in_s[place % len(back_in_s)])
            worker.turn(world.now)
        world.follow(worker)
    world.settle()


def cut(world: World, which: int, *, lost_in_s: float, noticed_in_s: float, for_s: float) -> None:
    """Nothing gets through to it or from it, and no end is told."""
    worker = world.pick(which)
    if worker and worker.can_reach:
        world.say(f"{worker.name} is cut off")
        world.judge.is_disturbed = True
        world.judge.is_alone = False
        worker.is_cut = True
        worker.hold_answer()
        worker.lost_at = world.now + lost_in_s
        worker.notices_at = world.now + noticed_in_s
        worker.heals_at = world.now + for_s


def freeze(
    world: World, which: int, *, lost_in_s: float, for_s: float, steps_first: bool = False
) -> None:
    """Its process is stopped, just when it has decided what to attempt next.

    With `steps_first` its event loop does something else before it comes to that.
    """
    worker = world.pick(which)
    if worker and worker.can_reach:
        world.say(f"{worker.name} is frozen")
        world.judge.is_disturbed = True
        if worker.can_receive:
            worker.receive(world.now, 100)
        worker.step(world.now)
        worker.is_frozen = True
        worker.steps_first = steps_first
        worker.next_at = math.inf
        worker.lost_at = world.now + lost_in_s
        worker.thaws_at = world.now + for_s
