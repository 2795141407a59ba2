"""Workers come and go, more of them than partitions too, and every user stays in order."""

from __future__ import annotations

import asyncio

import pytest

from tests.forks import FULL
from tests.ledger import sequence
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import Answer, VerifyingReceiver, fail_heads

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(300)]

LATENCY_S = 0.02
#: Of a failed head; the redelivery that follows takes 0.1 to 0.35 s.
BACKOFF = ["--backoff-min", "0.5", "--backoff-max", "0.5", "--jitter", "0"]
BACKOFF_S = 0.5
#: A key that moves is found out after 2 s of receiving; the rest is for a busy machine.
STALL_S = BACKOFF_S + 9.5
#: Between two events of a user. At full size three quarters of what one worker can do: one that has
#: more than it can do does not always receive, and so finds out later.
PERIOD_S = 0.8
USERS = [f"user-{number}" for number in range(200)]
#: How many events of a user are delivered while workers come and go; 20,000 or more at full size.
SCALE = 8 if FULL else 1


@pytest.mark.long
async def test_more_workers_than_partitions_all_get_work(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(delay_s=LATENCY_S)))
    ledger = await stage.ledger()
    workers = await stage.dispatch("crm", receiver.url, "--concurrency", "8", workers=4)

    await ledger.post(sequence(USERS, 5))
    await receiver.delivers(len(USERS) * 5, 30.0)

    assert_kept(receiver.book, ledger)
    received = await workers.metric("keylane_received_total")
    assert len(received) == 4
    assert min(received.values()) > 0


async def test_workers_join_and_leave_under_load_while_heads_fail(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver(fail_heads(1, every=5, delay_s=LATENCY_S)))
    ledger = await stage.ledger()
    is_enough = asyncio.Event()
    users = USERS if FULL else USERS[:100]
    feeding = asyncio.create_task(ledger.keep_posting(users, is_enough, every_s=PERIOD_S))
    to = ["crm", receiver.url, "--concurrency", "8", *BACKOFF]

    staying = await stage.dispatch(*to)
    await receiver.delivers(3 * len(users) * SCALE, 20.0 * SCALE)
    joined = await asyncio.gather(*(stage.dispatch(*to) for _ in range(3)))
    await receiver.delivers(len(receiver.book.delivered) + 5 * len(users) * SCALE, 20.0 * SCALE)
    assert set(await asyncio.gather(*(worker.stop() for worker in joined[:2]))) == {0}
    await receiver.delivers(len(receiver.book.delivered) + 3 * len(users) * SCALE, 20.0 * SCALE)
    is_enough.set()
    await feeding
    await receiver.delivers(len(ledger.promised), 30.0 * SCALE)

    assert_kept(receiver.book, ledger)
    stall_s, user = receiver.book.longest_stall_s()
    assert stall_s < STALL_S, user
    assert await staying.stop() == 0


async def delivered_per_second(stage: Stage, workers: int, events_each: int) -> float:
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(delay_s=LATENCY_S)))
    ledger = await stage.ledger()
    await stage.dispatch("crm", receiver.url, "--concurrency", "8", workers=workers)
    await ledger.post(sequence(USERS, events_each))
    await receiver.delivers(len(USERS) * events_each, 120.0)
    assert_kept(receiver.book, ledger)
    # Without the start, and the end, when those with fewer users have nothing left to do.
    attempts = receiver.book.attempts
    steady = attempts[len(attempts) // 10 : len(attempts) * 7 // 10]
    return len(steady) / (steady[-1].started_at - steady[0].started_at)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_four_workers_on_one_partition_deliver_almost_three_times_as_much_as_one(
    make_stage: MakeStage,
) -> None:
    one = await delivered_per_second(await make_stage("crm", partitions=1), 1, 20)
    four = await delivered_per_second(await make_stage("crm", partitions=1), 4, 60)

    assert four / one >= 2.7, f"{one:.0f}/s with one worker, {four:.0f}/s with four"
