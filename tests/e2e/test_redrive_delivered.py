"""A redrive that is killed in its middle, seen from the destination."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.judge import Attempt
from tests.ledger import sequence
from tests.stage import FULL, MakeStage, Stage
from tests.verifying import OK, Answer, VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(400)]

USERS = [f"user-{number}" for number in range(50)]
EVENTS_EACH = 200 if FULL else 40


def command(stage: Stage, *arguments: str) -> list[str]:
    where = ["--service-url", stage.broker.service_url, "--admin-url", stage.broker.admin_url]
    words = ["redrive", "crm", *arguments, "--json", "--topic", stage.topic, *where]
    return [sys.executable, "-m", "operate", "dlq", *words]


async def told(stage: Stage, *arguments: str) -> dict[str, object]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command(stage, *arguments), stdout=pipe)
    out, _ = await process.communicate()
    assert process.returncode == 0, out
    found: dict[str, object] = json.loads(out)
    return found


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
    dry = await told(stage, "--dry-run")
    assert (dry["events"], dry["users"]) == (events, len(USERS))

    killed = await asyncio.create_subprocess_exec(
        *command(stage), stdout=asyncio.subprocess.DEVNULL
    )
    await until(lambda: len(receiver.book.attempts) - before > events // 4, 60.0)
    killed.kill()
    await killed.wait()
    await told(stage, "--wait")

    again = receiver.book.attempts[before:]
    for user in USERS:
        assert [a.n for a in again if a.user == user] == list(range(1, EVENTS_EACH + 1))
    left = await told(stage, "--dry-run")
    assert left["dead_letters"] == 0
