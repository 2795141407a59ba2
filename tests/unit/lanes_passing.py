"""What a worker of the lanes' world does with events that need no lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dispatch.lanes import Lanes
from keylane.broker import Received
from tests.unit.lanes_judge import Attempt, Judge

PARTITION = 0
#: Attempts that are made in one go, and for how long what fails then waits.
BATCH = 3
DELAY_S = 0.4


class Passer(Protocol):
    """The worker."""

    number: int
    name: str
    lanes: Lanes
    is_member: bool
    is_connected: bool


def pass_by(
    worker: Passer, judge: Judge, failures: int, batch: Sequence[Received], now: float
) -> Sequence[Received]:
    """Attempt what needs no lane in one go, and then in another; the rest is left.

    One of so many events fails, or none with 0.
    """
    passing = worker.lanes.passing
    for _ in range(2):
        if not passing.is_open(PARTITION, now):
            break
        chosen, batch = passing.choose(PARTITION, batch, BATCH)
        attempts = {message.position: _attempt(worker, judge, message) for message in chosen}
        failed = [m for m in chosen if failures and m.position[1] % failures == 0]
        delivered = [message for message in chosen if message not in failed]
        for message in delivered:
            judge.finish(attempts[message.position])
        passing.finish(PARTITION, delivered)
        for message in failed:
            judge.fail(attempts[message.position], DELAY_S)
            worker.lanes.back_off(passing.keep(PARTITION, message, now), DELAY_S, now)
    return batch


def _attempt(worker: Passer, judge: Judge, message: Received) -> Attempt:
    attempt = Attempt(worker.number, worker.name, None, message.position, message.key)
    judge.start(attempt, is_member=worker.is_member, is_connected=worker.is_connected)
    judge.end(attempt)
    judge.passed += 1
    return attempt
