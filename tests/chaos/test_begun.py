"""The start of what a bad day brings: workers killed and restarted while heads fail."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.processes import Process
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import VerifyingReceiver, fail_share

pytestmark = [pytest.mark.real_broker]

WORKERS = 3
OPTIONS = ["--concurrency", "8", "--backoff-min", "0.3", "--backoff-max", "1", "--max-attempts"]


async def kill_and_restart(
    stage: Stage, to: str, rng: Random, workers: list[Process], kills: int, pause_s: float
) -> list[float]:
    """Kill a worker at random and start another one, again and again; returns when."""
    moments = []
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(pause_s / 2, pause_s))
        victim = rng.randrange(len(workers))
        moments.append(await workers[victim].kill())
        workers[victim] = await stage.dispatch("crm", to, *OPTIONS, "30")
    return moments


async def mix(make_stage: MakeStage, *, seed: int, kills: int) -> None:
    rng = Random(seed)
    users = [f"user-{number}" for number in range(100)]
    stage = await make_stage("crm", partitions=3)
    receiver = await stage.receive(VerifyingReceiver(fail_share(0.1, seed, delay_s=0.02)))
    ledger = await stage.ledger()
    to = receiver.url
    workers = list(
        await asyncio.gather(*(stage.dispatch("crm", to, *OPTIONS, "30") for _ in range(WORKERS)))
    )

    is_enough = asyncio.Event()
    feeding = asyncio.create_task(ledger.keep_posting(users, is_enough, every_s=0.2))
    moments = await kill_and_restart(stage, to, rng, workers, kills, pause_s=3.0)
    is_enough.set()
    await feeding
    await receiver.delivers(len(ledger.promised), 60.0)

    dead = await stage.dead_letters("crm")
    assert_kept(receiver.book, ledger, dead, cut_at=tuple(moments))
    assert dead == []


@pytest.mark.timeout(120)
async def test_workers_are_killed_and_restarted_while_heads_fail(make_stage: MakeStage) -> None:
    await mix(make_stage, seed=1, kills=2)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [2, 3, 4])
async def test_workers_are_killed_and_restarted_for_longer(
    make_stage: MakeStage, seed: int
) -> None:
    await mix(make_stage, seed=seed, kills=15)
