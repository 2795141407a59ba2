"""`keylane pause|resume|status|lanes|lane` as an operator types them, beside running workers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tests.forks import FULL
from tests.jsonforms import assert_is
from tests.judge import Attempt, Book
from tests.ledger import sequence
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import OK, Answer, VerifyingReceiver, fail_share
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

USERS = [f"user-{number}" for number in range(50 if FULL else 20)]
#: For so long nothing is attempted, after a pause was confirmed and after a restart.
QUIET_S = 5.0 if FULL else 0.7
#: A request that was sent before the pause was confirmed may be read only so much later.
ON_ITS_WAY_S = 0.1


async def form(stage: Stage, name: str, *words: str, code: int = 0) -> dict[str, Any]:
    """The same with --json, whose output has to be of this documented form."""
    return assert_is(name, (await stage.keylane(*words, "--json", code=code)).stdout)


def started_since(book: Book, at: float) -> list[Attempt]:
    return [attempt for attempt in book.attempts if attempt.started_at > at + ON_ITS_WAY_S]


async def test_after_a_pause_is_confirmed_no_attempt_starts_even_over_a_restart(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=2)
    receiver = await stage.receive(VerifyingReceiver(fail_share(0.1, seed=5, delay_s=0.01)))
    options = ["--backoff-min", "0.1", "--backoff-max", "0.4", "--max-attempts", "50"]
    worker = await stage.dispatch("crm", receiver.url, *options, workers=2)
    ledger = await stage.ledger()
    is_enough = asyncio.Event()
    posting = asyncio.create_task(ledger.keep_posting(USERS, is_enough, every_s=0.3))
    await receiver.delivers(3 * len(USERS), 30.0)

    paused = await form(stage, "pause", "pause", "crm")

    paused_at = time.monotonic()
    assert len(paused["confirmed"]) == 2
    await asyncio.sleep(QUIET_S)
    assert started_since(receiver.book, paused_at) == []
    # What a worker starts with is what was said before.
    assert await worker.stop() == 0
    worker = stage.run("dispatch", "crm", "--to", receiver.url, "--workers", "2", *options)
    await until(lambda: len(worker.logged("worker.started")) == 2, 30.0, worker.tail)
    (crm,) = (await form(stage, "status", "status", "crm"))["destinations"]
    await asyncio.sleep(QUIET_S)
    assert started_since(receiver.book, paused_at) == []
    assert crm["condition"] == "paused"
    assert crm["backlog"] > 0
    assert [one["report"]["is_paused"] for one in crm["workers"]] == [True, True]

    resumed = await form(stage, "resume", "resume", "crm")

    assert resumed["was_paused"]
    assert len(resumed["confirmed"]) == 2
    is_enough.set()
    await posting
    await receiver.delivers(len(ledger.promised), 45.0)
    assert_kept(receiver.book, ledger)
    assert await worker.stop() == 0
    assert await stage.backlog("crm") == 0


@pytest.mark.long
async def test_stuck_users_are_seen_and_decided_on_while_others_go_on(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", "audit", partitions=2)
    failing = {("skipped", 1), ("given-up", 1), ("retried", 1)}

    def plan(attempt: Attempt) -> Answer:
        return Answer(503) if (attempt.user, attempt.n) in failing else OK

    receiver = await stage.receive(VerifyingReceiver(plan))
    await stage.dispatch("crm", receiver.url, "--backoff-min", "60", "--jitter", "0")
    ledger = await stage.ledger()
    users = ["skipped", "given-up", "retried", *USERS]
    await ledger.post(sequence(users, 2))
    await receiver.delivers(2 * len(USERS), 20.0)
    for user in ("skipped", "given-up", "retried"):
        await receiver.attempted(user, 1)

    told = await form(stage, "lanes", "lanes", "crm", "--top", "2")
    assert len(told["lanes"]) == 2
    for lane in told["lanes"]:
        assert (lane["state"], lane["events"], lane["attempt"]) == ("backoff", 2, 2)
        assert (lane["last_status"], lane["partition"] >= 0) == (503, True)
        assert lane["position"] == receiver.book.of(lane["user"], 1)[0].position
    failing.clear()
    _, _, skipped, *_ = await asyncio.gather(
        stage.keylane("lane", "dead-letter", "crm", "given-up"),
        form(stage, "lane", "lane", "retry-now", "crm", "retried"),
        form(stage, "lane", "lane", "skip", "crm", "skipped", "--yes"),
        stage.keylane("lane", "retry-now", "crm", "nobody", code=1),
    )

    assert (skipped["is_applied"], skipped["lane"]["last_error"]) == (True, "answered 503")
    await receiver.delivers(2 * len(USERS) + 4)
    assert [a.n for a in receiver.book.of("skipped") if a.is_delivered] == [2]
    assert [a.n for a in receiver.book.of("given-up") if a.is_delivered] == [2]
    assert [(a.n, a.number) for a in receiver.book.of("retried")] == [(1, 1), (1, 2), (2, 1)]
    (letter,) = await stage.dead_letters("crm")
    assert letter.event == ("given-up", 1)
    await until(lambda: is_done(stage))
    audit, crm = (await form(stage, "status", "status"))["destinations"]
    assert (audit["condition"], audit["backlog"]) == ("unattended", 2 * len(users))
    assert (crm["condition"], crm["backlog"], crm["dead_letters"]) == ("delivering", 0, 1)


async def is_done(stage: Stage) -> bool:
    return await stage.backlog("crm") == 0


@pytest.mark.long
async def test_a_worker_that_stands_still_is_marked_and_the_pause_is_not_confirmed(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver())
    workers = [
        await stage.dispatch("crm", receiver.url, "--consumer-name", name)
        for name in ("moves", "stands-still")
    ]
    os.killpg(workers[1].pid, signal.SIGSTOP)
    try:
        status, paused = await asyncio.gather(
            form(stage, "status", "status"),
            stage.keylane("pause", "crm", "--within", "2", code=75),
        )
    finally:
        os.killpg(workers[1].pid, signal.SIGCONT)

    (crm,) = status["destinations"]
    silent, answering = sorted(crm["workers"], key=lambda one: bool(one["answers"]))
    assert "stands-still" in silent["name"]
    assert "moves" in answering["name"]
    assert answering["share"] + silent["share"] == pytest.approx(1, abs=0.01)
    assert sum(len(one["partitions"][0]["hash_ranges"]) for one in crm["workers"]) > 2
    assert f"Not confirmed in time by {silent['name']}. The pause stays said" in paused.stderr
    # What was said holds for it as well, as soon as it moves.
    again = await form(stage, "pause", "pause", "crm")
    assert again["confirmed"] == sorted([silent["name"], answering["name"]])


async def test_a_destination_that_does_not_exist_is_refused_with_those_that_do(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", "audit", partitions=1)

    _, resumed, refused, no_worker = await asyncio.gather(
        form(stage, "topic-setup", "topic", "setup"),
        form(stage, "destination-resume", "destination", "resume", "crm"),
        stage.keylane("pause", "crn", code=78),
        stage.keylane("lane", "skip", "crm", "Ada", "--yes", code=69),
    )

    assert "Destinations there: audit, crm. Did you mean crm?" in refused.stderr
    assert "crm has no worker" in no_worker.stderr
    assert not resumed["was_disabled"]
