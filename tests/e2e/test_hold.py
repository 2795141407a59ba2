"""Users that are held after a dead letter, and let go by a redrive."""

from __future__ import annotations

import asyncio

import pytest

from tests.forks import FULL
from tests.judge import Attempt
from tests.ledger import sequence
from tests.stage import MakeStage, Stage
from tests.verifying import OK, Answer, VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(180)]

USERS = [f"user-{number}" for number in range(100)]
FAILING = USERS[::20]
EVENTS_EACH = 50 if FULL else 20
#: Events of each held user; in full they would fill lanes and memory, if they were kept there.
MANY = 10_000 if FULL else 200
#: Events of each user that come while the failing ones are redriven.
LIVE = 5


async def is_drained(stage: Stage) -> bool:
    return await stage.backlog("crm") == 0


async def test_held_users_delay_nobody_and_go_on_in_order_after_a_redrive(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")
    is_repaired = False

    def plan(attempt: Attempt) -> Answer:
        fails = attempt.user in FAILING and attempt.n > 1 and not is_repaired
        return Answer(400) if fails else OK

    receiver = await stage.receive(VerifyingReceiver(plan))
    ledger = await stage.ledger()
    hold = ["--on-dead-letter", "hold", "--max-lane-events", "1000"]
    workers = [
        await stage.dispatch("crm", receiver.url, *hold, "--consumer-name", name)
        for name in ("worker-a", "worker-b")
    ]
    await ledger.post(sequence(USERS, EVENTS_EACH))
    healthy = len(USERS) - len(FAILING)
    await receiver.delivers(healthy * EVENTS_EACH + len(FAILING), 60.0)
    await until(lambda: is_drained(stage))

    dead = await stage.dead_letters("crm")
    for user in FAILING:
        letters = [letter for letter in dead if letter.user == user]
        assert [letter.event[1] for letter in letters] == list(range(2, EVENTS_EACH + 1))
        reasons = [letter.properties["keylane-reason"] for letter in letters]
        assert reasons == ["rejected"] + ["held"] * (EVENTS_EACH - 2)
        assert [attempt.n for attempt in receiver.book.of(user)] == [1, 2]

    # Who is held stays so, whoever has the user next.
    for worker in workers:
        await worker.kill()
    await stage.dispatch("crm", receiver.url, *hold, "--consumer-name", "worker-c")
    await ledger.post(sequence(USERS, 1, first=EVENTS_EACH + 1))
    await until(lambda: is_drained(stage))
    assert len(await stage.dead_letters("crm")) == len(FAILING) * EVENTS_EACH

    is_repaired = True
    attempts_before = len(receiver.book.attempts)
    more = asyncio.create_task(ledger.post(sequence(USERS, LIVE, first=EVENTS_EACH + 2)))
    for user in FAILING:
        told = await stage.told("dlq", "redrive", "crm", "--user", user)
        assert told["events"] >= EVENTS_EACH, told
    await more
    await receiver.delivers(len(USERS) * (EVENTS_EACH + LIVE + 1), 60.0)
    await until(lambda: is_drained(stage))

    for user in FAILING:
        again = [a.n for a in receiver.book.attempts[attempts_before:] if a.user == user]
        assert again == list(range(2, EVENTS_EACH + LIVE + 2))
    assert receiver.book.verdict().flags == ()
    listed = await stage.told("dlq", "list", "crm")
    assert listed["dead_letters"] == 0, listed


async def test_what_comes_for_a_held_user_is_kept_by_the_broker_and_not_by_the_worker(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(400)))
    ledger = await stage.ledger()
    hold = ["--on-dead-letter", "hold", "--max-lane-events", "1000"]
    worker = await stage.dispatch("crm", receiver.url, *hold)
    peaks = []
    for first in (1, MANY + 1):
        await ledger.post(sequence(FAILING, MANY, first=first))
        await until(lambda: is_drained(stage), 120.0)
        peaks.append(worker.peak_bytes())

    # The first ones fill what is bounded: queues, and positions that are kept for a time.
    grown = (peaks[1] - peaks[0]) / 2**20
    print(f"{len(FAILING) * MANY} more events, {grown:.1f} MiB more")  # noqa: T201  shown with -rP
    assert grown < 10
    assert [attempt.n for attempt in receiver.book.attempts] == [1] * len(FAILING)
    listed = await stage.told("dlq", "list", "crm")
    assert listed["dead_letters"] == 2 * len(FAILING) * MANY
