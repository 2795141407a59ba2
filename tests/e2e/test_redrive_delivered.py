"""A redrive that is killed in its middle, seen from the destination."""

from __future__ import annotations

import pytest

from tests.forks import FULL
from tests.judge import Attempt
from tests.ledger import sequence
from tests.stage import MakeStage
from tests.verifying import OK, Answer, VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(400)]

USERS = [f"user-{number}" for number in range(50)]
EVENTS_EACH = 200 if FULL else 40
REDRIVE = ("dlq", "redrive", "crm")


async def test_each_event_comes_once_more_in_order_though_the_redrive_is_killed(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")
    is_repaired = False

    def plan(_: Attempt) -> Answer:
        return OK if is_repaired else Answer(400)

    receiver = await stage.receive(VerifyingReceiver(plan))
    ledger = await stage.ledger()
    worker = await stage.dispatch("crm", receiver.url, "--concurrency", "50")
    await ledger.post(sequence(USERS, EVENTS_EACH))
    events = len(USERS) * EVENTS_EACH

    async def all_are_dead() -> bool:
        return sum((await worker.metric("keylane_dead_letters_total")).values()) >= events

    await until(all_are_dead, 120.0)
    before = len(receiver.book.attempts)
    is_repaired = True
    dry = await stage.told(*REDRIVE, "--dry-run")
    assert (dry["events"], dry["users"]) == (events, len(USERS))

    killed = stage.run(*REDRIVE)
    await until(lambda: len(receiver.book.attempts) - before > events // 4, 60.0)
    await killed.kill()
    await stage.told(*REDRIVE, "--wait")

    again = receiver.book.attempts[before:]
    for user in USERS:
        assert [a.n for a in again if a.user == user] == list(range(1, EVENTS_EACH + 1))
    left = await stage.told(*REDRIVE, "--dry-run")
    assert left["dead_letters"] == 0
