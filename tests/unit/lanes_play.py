"""A stage for scenarios: steps of the lanes' world by name, with chance in what does not matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Final

from keylane.keyshared import KeySharedSubscription
from keylane.partitionlog import PartitionLog
from tests.unit import lanes_faults
from tests.unit.lanes_judge import ROUNDING_S, Attempt
from tests.unit.lanes_setting import Setting
from tests.unit.lanes_worker import Worker
from tests.unit.lanes_world import RING_POINTS, World

#: Nothing that a scenario waits for takes longer.
PATIENCE_S: Final = 20.0
TICK_S: Final = 0.02


class Play:
    """A world that is checked after each step.

    Workers are called by the numbers in their names; who joins gets the lowest that is free. A
    crowd of other users comes and goes in some plays.
    """

    def __init__(self, setting: Setting, rng: Random, *, has_crowd: bool) -> None:
        self.world = World(setting)
        self.rng = rng
        self._crowd = [f"crowd-{rng.randrange(100)}" for _ in range(rng.randrange(3) * has_crowd)]

    def some(self, least: float, most: float) -> float:
        return self.rng.uniform(least, most)

    def moving(self, *owners: tuple[str, int]) -> str:
        """A user that each of these sets of workers, such as "13", has at that one of them."""
        first = self.rng.randrange(1000)
        names = (f"user-{number}" for number in range(first, first + 10_000))
        return next(n for n in names if all(_owner(members, n) == by for members, by in owners))

    # Steps

    def publish(self, user: str, events: int = 1) -> None:
        for _ in range(events):
            self.world.publish(user)
            self.world.check()

    def join(self) -> None:
        self.world.join()
        self.world.check()

    def leave(self, number: int) -> None:
        self.world.leave(self._which(number))
        self.world.check()

    def end(self, user: str, outcome: str, *, delay_s: float = 1.0, at: int | None = None) -> None:
        """Its attempt that runs has that outcome; with `at`, the one of that worker."""
        worker, attempt = self._running(user, at)
        self.world.finish(
            self._which(_number(worker)), outcome, worker.running.index(attempt), delay_s
        )
        self.world.check()

    def refuse_dead_letters(self, number: int) -> None:
        """The dead-letter topic does not confirm."""
        self.world.bury(self._which(number), is_confirmed=False)
        self.world.check()

    def crash(self, number: int) -> None:
        """It dies, its attempts fail, and what it held comes back only with `catch_up`."""
        lanes_faults.crash(
            self.world, self._which(number), seen_in_s=0, goes_on=[False], is_overtaken=True
        )
        self.world.check()

    def catch_up(self, events: int | None = None) -> None:
        self.world.catch_up(events)
        self.world.check()

    def disconnect(self, number: int, *, back_in_s: float) -> None:
        lanes_faults.disconnect(self.world, self._which(number), back_in_s=back_in_s)
        self.world.check()

    def freeze(self, number: int, *, for_s: float, steps_first: bool = False) -> None:
        lanes_faults.freeze(
            self.world, self._which(number), lost_in_s=30.0, for_s=for_s, steps_first=steps_first
        )
        self.world.check()

    def unload(self) -> None:
        lanes_faults.unload(self.world, [0.1])
        self.world.check()

    # Time

    def wait(self, seconds: float) -> None:
        end = self.world.now + seconds
        tick_s = TICK_S if self._crowd else 10 * TICK_S
        while self.world.now < end - ROUNDING_S:
            self._tick(min(tick_s, end - self.world.now))

    def until_attempted(self, *users: str, at: int | None = None) -> str:
        """One of them is; says which."""
        who = " or ".join(users)
        self._until(lambda: any(self._attempts(user, at) for user in users), f"{who} is attempted")
        return next(user for user in users if self._attempts(user, at))

    def until_sent(self, user: str, *, to: int) -> None:
        """Something of that user has just left the broker for that worker."""

        def is_sent() -> bool:
            pending = self.world.subscription.pending()[f"worker-{to}"]
            return any(self.world.log.at(position).key == user for position in pending)

        self._until(is_sent, f"{user} comes to worker-{to}")

    def until_given_back_late(self, user: str, *, at: int) -> None:
        """That worker gives back all it has of it, which is sent again only with `catch_up`."""

        def is_gone() -> bool:
            pending = self.world.subscription.pending()[f"worker-{at}"]
            return all(self.world.log.at(position).key != user for position in pending)

        self.world.subscription.is_slow = True
        self._until(is_gone, f"worker-{at} gives {user} back")
        self.world.subscription.is_slow = False

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = self.world.now + PATIENCE_S
        while not condition():
            if self.world.now > end:
                self.world.judge.breaks(f"nobody sees that {what}")
            self._tick(TICK_S)

    def _tick(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.check()
        for user in self._crowd:
            if self.rng.random() < TICK_S:
                self.publish(user)
            if self._attempts(user, None) and self.rng.random() < 5 * TICK_S:
                outcome = self.rng.choice(("delivered", "delivered", "failed"))
                self.end(user, outcome, delay_s=self.some(0.1, 2.0))

    # Who is who

    def _attempts(self, user: str, at: int | None) -> list[tuple[Worker, Attempt]]:
        return [
            (worker, attempt)
            for worker in self.world.workers
            if not (worker.is_dead or worker.is_frozen) and at in (None, _number(worker))
            for attempt in worker.running
            if attempt.user == user
        ]

    def _running(self, user: str, at: int | None) -> tuple[Worker, Attempt]:
        ((worker, attempt), *_) = self._attempts(user, at)
        return worker, attempt

    def _which(self, number: int) -> int:
        able = [w for w in self.world.workers if not (w.is_dead or w.is_frozen)]
        return next(index for index, worker in enumerate(able) if _number(worker) == number)


def _number(worker: Worker) -> int:
    return int(worker.name.rpartition("-")[2])


@cache
def _subscription_of(members: str) -> KeySharedSubscription:
    subscription = KeySharedSubscription(PartitionLog(), ring_points=RING_POINTS)
    for number in members:
        subscription.join(f"worker-{number}", 1)
    return subscription


def _owner(members: str, user: str) -> int:
    return int(_subscription_of(members).owner_of(user).rpartition("-")[2])
