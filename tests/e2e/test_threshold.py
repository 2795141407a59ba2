"""One user has as many unfinished events as a worker may hold."""

from __future__ import annotations

import aiohttp
import pytest

from tests.forks import FULL
from tests.ledger import sequence
from tests.processes import Process
from tests.stage import MakeStage, assert_kept
from tests.verifying import VerifyingReceiver, accept_all, fail_user
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

LIMIT = 2_000 if FULL else 200
OTHERS = [f"user-{number}" for number in range(2, 12)]
STUCK = 3 * LIMIT
EACH = 30


async def readiness(worker: Process) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{worker.url}/readyz") as answer:
        return answer.status, await answer.text()


@pytest.mark.long
async def test_at_the_threshold_the_worker_says_so_loses_nothing_and_goes_on_by_itself(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver(fail_user("user-1")))
    ledger = await stage.ledger()
    options = ["--max-lane-events", str(LIMIT), "--max-attempts", "1000", "--jitter", "0"]
    options += ["--backoff-min", "0.3", "--backoff-max", "0.3"]
    env = {"KEYLANE_DISPATCH__LANE_PAYLOAD_EVENTS": str(LIMIT // 4)}
    worker = stage.run("dispatch", "crm", "--to", receiver.url, *options, env=env)
    await worker.ready()
    await ledger.post(sequence(["user-1"], STUCK))

    await until(lambda: bool(worker.logged("lane.full")), 20.0)
    assert worker.logged("lane.full")[0]["users"] == ["user-1"]
    status, reasons = await readiness(worker)
    assert status == 503
    assert "max_lane_events" in reasons
    assert sum((await worker.metric("keylane_full_lanes")).values()) == 1
    # What came beyond it had been received already.
    held = sum((await worker.metric("keylane_events")).values())
    assert LIMIT <= held <= LIMIT + 1_000
    # Its head is still attempted, so it can drain; others that come now wait.
    attempts = len(receiver.book.of("user-1", 1))
    await ledger.post(sequence(OTHERS, EACH))
    await receiver.attempted("user-1", 1, attempts + 2)

    receiver.plan = accept_all
    await receiver.delivers(STUCK + EACH * len(OTHERS), 60.0)

    assert_kept(receiver.book, ledger)

    async def is_ready() -> bool:
        return (await readiness(worker))[0] == 200

    await until(is_ready)
    await until(lambda: bool(worker.logged("lane.drained")), 10.0)
    assert await worker.stop() == 0
    assert await stage.backlog("crm") == 0
