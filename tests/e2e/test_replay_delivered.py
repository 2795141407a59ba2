"""A replay to a destination whose workers run: beside live events, and instead of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.judge import Attempt
from tests.ledger import Ledger, sequence
from tests.processes import Process
from tests.stage import MakeStage, Stage
from tests.verifying import VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(120)]

USERS = [f"user-{number}" for number in range(10)]
REPLAY = "keylane-replay"


class Scene:
    """Two workers of `crm`, and who sends them events; `audit` has none."""

    def __init__(self, stage: Stage, receiver: VerifyingReceiver, ledger: Ledger) -> None:
        self.stage = stage
        self.receiver = receiver
        self._ledger = ledger
        self._events_each = 0
        self._replays: set[str] = set()

    async def post(self, events_each: int) -> None:
        """The next events of each user."""
        await self._ledger.post(sequence(USERS, events_each, first=self._events_each + 1))
        self._events_each += events_each

    async def begin(self, *words: str) -> Process:
        """A replay of which the first events have arrived."""
        process = self.stage.run("replay", "crm", "--from", "1h", *words)
        await until(lambda: bool(self.replayed()), 20.0, process.tail)
        return process

    def live(self) -> list[Attempt]:
        return [a for a in self.receiver.book.attempts if REPLAY not in a.headers]

    def replayed(self) -> list[Attempt]:
        """By the replay that runs, or that ran last."""
        attempts = [a for a in self.receiver.book.attempts if REPLAY in a.headers]
        return [a for a in attempts if a.headers[REPLAY] not in self._replays]

    def end(self) -> None:
        """What comes from now on is of another replay."""
        self._replays |= {attempt.headers[REPLAY] for attempt in self.replayed()}


def assert_in_order(attempts: Sequence[Attempt], events_each: int) -> None:
    """Each of the first events of every user, once."""
    for user in USERS:
        own = [attempt.n for attempt in attempts if attempt.user == user]
        assert own == list(range(1, events_each + 1)), user


async def test_a_replay_comes_in_order_beside_live_events_or_instead_of_them(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", "audit", partitions=3)
    receiver = await stage.receive(VerifyingReceiver(keeps_requests=True))
    scene = Scene(stage, receiver, await stage.ledger())
    await scene.post(6)
    await stage.dispatch("crm", receiver.url, workers=2)
    await receiver.delivers(60)

    beside = await scene.begin("--rate", "40", "--wait")
    await scene.post(2)
    # They do not wait for the rest of the replay.
    await until(lambda: len(scene.live()) == 80, 10.0)
    assert len(scene.replayed()) < 60
    assert await beside.exited(30.0) == 0

    assert_in_order(scene.replayed(), 6)
    assert_in_order(scene.live(), 8)
    assert "60 events of 10 users are delivered" in beside.tail()
    (number,) = {attempt.headers[REPLAY] for attempt in scene.replayed()}
    assert f"Replay {number}: " in beside.tail()
    ids = {(a.user, a.n): a.headers["webhook-id"] for a in scene.live()}
    assert all(ids[a.user, a.n] == a.headers["webhook-id"] for a in scene.replayed())

    scene.end()
    instead = await scene.begin("--rate", "60", "--instead")
    await scene.post(1)
    assert await instead.exited(30.0) == 0
    await until(lambda: len(scene.live()) == 90, 10.0)

    assert_in_order(scene.replayed(), 8)
    assert_in_order(scene.live(), 9)
    last_end = max(attempt.ended_at or 0.0 for attempt in scene.replayed())
    assert min(attempt.started_at for attempt in scene.live() if attempt.n == 9) > last_end
    assert await stage.backlog("audit") == 90
