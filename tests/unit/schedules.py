"""Schedules drawn from a seed: much cheaper than hypothesis', so there can be many of them.

What happens is weighted so that the rare meetings occur: a head fails while its tail is here, its
key moves during the backoff, and what was given back comes back.
"""

from __future__ import annotations

from random import Random

from tests.unit.lanes_world import World

USERS = ("Ada", "Bob", "Cy", "Dot", "Eve")


def run_schedule(seed: int, *, steps: int = 40, disturbs: bool = True) -> World:
    """One life of a subscription: a schedule, then a drain. The caller judges the world."""
    rng = Random(seed)
    world = World()
    for _ in range(rng.randint(1, 2)):
        world.join()
    for user in USERS:
        for _ in range(rng.randint(0, 4)):
            world.publish(user)
    for _ in range(steps):
        _step(world, rng, disturbs=disturbs)
    world.drain()
    return world


def _step(world: World, rng: Random, *, disturbs: bool) -> None:
    names = list(world.workers)
    name = rng.choice(names) if names else ""
    draw = rng.random()
    if draw < 0.3:
        world.pass_time(rng.choice((0.1, 0.2, 0.5, 1.0, 2.5)))
    elif draw < 0.5 and name:
        world.receive(name, rng.choice((1, 2, 5, 50)))
    elif draw < 0.75 and name:
        outcome = rng.choices(("failed", "delivered", "given up"), (5, 3, 1))[0]
        for _ in range(rng.randint(1, 3)):
            world.finish(name, outcome, rng.randrange(5), rng.choice((0.1, 0.4, 1.0)))
    elif draw < 0.8 and name:
        world.bury(name, is_confirmed=rng.random() < 0.7, which=rng.randrange(3))
    elif draw < 0.9:
        for _ in range(rng.randint(1, 2)):
            world.publish(rng.choice(USERS))
    else:
        _change_workers(world, rng, name, disturbs=disturbs)


def _change_workers(world: World, rng: Random, name: str, *, disturbs: bool) -> None:
    changes = ["join", "join", "leave"] + (["crash", "disconnect", "reconnect"] * disturbs)
    change = rng.choice(changes)
    if change == "join" or not name:
        if len(world.workers) < 4:
            world.join()
    elif change == "leave":
        if len(world.workers) > 1:
            world.leave(name)
    elif change == "crash":
        world.crash(name)
    elif change == "disconnect":
        world.disconnect(name)
    else:
        world.reconnect(name)
