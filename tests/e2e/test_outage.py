"""A destination that is down as a whole, disabled, and another one beside it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.forks import FULL
from tests.ledger import Ledger, sequence
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import OK, Answer, VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(240)]

USERS = [f"user-{number}" for number in range(60)]
DOWN_S = 120.0 if FULL else 6.0
EVERY_S = 0.3
FOUND_OUT_S = 3.0
#: One retry is all that an event may spend; an outage of many backoffs would use that up. It comes
#: after the next events of all users: of an outage that begins among those of some, what has just
#: been delivered to the others says otherwise until then.
OPTIONS = ["--max-attempts", "2", "--backoff-min", "0.8", "--backoff-max", "1"]


async def a_steady_stream(ledger: Ledger, is_enough: asyncio.Event) -> None:
    await ledger.keep_posting(USERS, is_enough, every_s=EVERY_S)


async def two_destinations(stage: Stage) -> tuple[VerifyingReceiver, VerifyingReceiver]:
    failing = await stage.receive(VerifyingReceiver())
    healthy = await stage.receive(VerifyingReceiver())
    await stage.dispatch("failing", failing.url, *OPTIONS)
    await stage.dispatch("healthy", healthy.url, *OPTIONS)
    return failing, healthy


@pytest.mark.parametrize("status", [pytest.param(500, marks=pytest.mark.long), 503])
async def test_an_outage_costs_no_attempts_and_nobody_elses_time(
    make_stage: MakeStage, status: int
) -> None:
    stage = await make_stage("failing", "healthy")
    failing, healthy = await two_destinations(stage)
    ledger = await stage.ledger()
    is_enough = asyncio.Event()
    posting = asyncio.create_task(a_steady_stream(ledger, is_enough))
    await failing.delivers(2 * len(USERS), 30.0)

    failing.plan = lambda _: Answer(status)
    first_failed = len(failing.book.attempts)
    await asyncio.sleep(DOWN_S)
    tried = failing.book.attempts[first_failed:]
    healthy_meanwhile = healthy.book.longest_stall_s()
    failing.plan = lambda _: OK
    is_enough.set()
    await posting
    await failing.delivers(len(ledger.promised), 60.0)
    await healthy.delivers(len(ledger.promised), 20.0)

    assert await stage.dead_letters("failing") == []
    refused = [attempt for attempt in tried if attempt.status == status]
    # Those by which it was found out, which are taken back, and then a few probes.
    found_out_at = refused[0].started_at + FOUND_OUT_S
    probes = [attempt for attempt in refused if attempt.started_at > found_out_at]
    assert 1 <= len(probes) < 2 * DOWN_S
    assert {attempt.number for attempt in probes} == {1}
    assert len({attempt.user for attempt in probes}) == len(probes)
    assert_kept(failing.book, ledger)
    assert_kept(healthy.book, ledger)
    assert healthy_meanwhile[0] < 3.0


@pytest.mark.long
async def test_users_that_always_fail_are_no_outage(make_stage: MakeStage) -> None:
    stage = await make_stage("crm")
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(500)))
    ledger = await stage.ledger()
    await ledger.post(sequence(USERS, 1))
    await stage.dispatch("crm", receiver.url, *OPTIONS)

    async def are_dead() -> bool:
        return len(await stage.dead_letters("crm")) == len(USERS)

    await until(are_dead, 60.0)
    assert set(Counter(a.user for a in receiver.book.attempts).values()) == {2}


@pytest.mark.long
async def test_a_destination_that_answers_410_keeps_its_backlog_until_it_is_resumed(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(410)))
    ledger = await stage.ledger()
    await ledger.post(sequence(USERS[:5], 2))
    first = await stage.dispatch("crm", receiver.url, *OPTIONS)
    await until(lambda: bool(first.logged("destination.disabled")), 30.0)
    await first.stop()
    # Those that were on their way in that moment.
    attempts = len(receiver.book.attempts)
    assert attempts <= 5

    second = stage.run("dispatch", "crm", "--to", receiver.url, *OPTIONS)
    await until(lambda: bool(second.logged("destination.disabled")), 30.0)
    assert len(receiver.book.attempts) == attempts
    assert await stage.backlog("crm") == 10

    receiver.plan = lambda _: OK
    resume = stage.run("destination", "resume", "crm")
    assert await resume.exited() == 0
    await receiver.delivers(10, 30.0)
    assert_kept(receiver.book, ledger)
    assert await stage.dead_letters("crm") == []
