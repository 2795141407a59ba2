"""Stopping, aborting and killing: what is in flight decides what may come twice."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.forks import FULL
from tests.ledger import sequence
from tests.processes import Process
from tests.stage import MakeStage, assert_kept
from tests.verifying import Answer, VerifyingReceiver, fail_share
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(90)]

INTERRUPTED = 130
USERS = [f"user-{number}" for number in range(50)]


def slow_first(delay_s: float) -> VerifyingReceiver:
    return VerifyingReceiver(lambda a: Answer(delay_s=delay_s if a.n == 1 else 0.0))


async def draining(process: Process) -> None:
    """Ask it to stop, and wait until it has heard."""
    process.signal(signal.SIGTERM)
    await until(lambda: bool(process.logged("worker.draining")))


async def test_a_worker_that_is_stopped_finishes_its_attempt_and_nothing_comes_twice(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(slow_first(1.5))
    ledger = await stage.ledger()
    await ledger.post(sequence(["user-1"], 3))
    worker = await stage.dispatch("crm", receiver.url)
    await receiver.attempted("user-1", 1)

    assert await worker.stop() == 0

    assert [(a.n, a.status) for a in receiver.book.attempts] == [(1, 200)]
    await stage.dispatch("crm", receiver.url)
    await receiver.delivers(3)
    assert_kept(receiver.book, ledger)
    assert len(receiver.book.attempts) == 3


async def test_ingest_that_is_stopped_answers_who_is_inside_and_ends_with_0(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver())
    ingest, other = await asyncio.gather(stage.ingest(), stage.ingest())
    ledger = stage.ledger_of(ingest)
    events = sequence(USERS, 200 if FULL else 60)
    posting = asyncio.create_task(ledger.post(events))
    await until(lambda: bool(ledger.promised))

    assert await ingest.stop() == 0
    ledger.url = other.url
    await posting

    # Requests were answered or refused as a whole: nothing of them was stored without a 202.
    assert set(ledger.refusals) <= {0, 503}
    assert await stage.stored() == len(events)
    await stage.dispatch("crm", receiver.url)
    await receiver.delivers(len(events), 30.0)
    assert_kept(receiver.book, ledger)


@pytest.mark.long
async def test_a_second_signal_aborts(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(slow_first(8.0))
    ledger = await stage.ledger()
    await ledger.post(sequence(["user-1"], 2))
    worker = await stage.dispatch("crm", receiver.url)
    await receiver.attempted("user-1", 1)

    await draining(worker)
    aborted_at = time.monotonic()
    worker.signal(signal.SIGTERM)

    assert await worker.exited(within_s=3.0) == INTERRUPTED
    assert receiver.book.delivered == set()
    receiver.plan = lambda _: Answer()
    await stage.dispatch("crm", receiver.url)
    await receiver.delivers(2)
    assert_kept(receiver.book, ledger, cut_at=(aborted_at,))


@pytest.mark.long
async def test_a_killed_worker_loses_nothing_and_reorders_nobody(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=3)
    receiver = await stage.receive(VerifyingReceiver(fail_share(0.1, seed=3, delay_s=0.01)))
    ledger = await stage.ledger()
    options = ["--concurrency", "8", "--backoff-min", "0.3", "--max-attempts", "20"]
    staying, killed = await asyncio.gather(
        stage.dispatch("crm", receiver.url, *options),
        stage.dispatch("crm", receiver.url, *options),
    )
    events = sequence(USERS, 60)
    await ledger.post(events)
    await receiver.delivers(len(events) // 4, 20.0)

    killed_at = await killed.kill()
    await receiver.delivers(len(events), 40.0)

    assert max(attempt.started_at for attempt in receiver.book.attempts) > killed_at + 0.5
    assert_kept(receiver.book, ledger, cut_at=(killed_at,))
    assert await staying.stop() == 0
    assert await stage.backlog("crm") == 0
