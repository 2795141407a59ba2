"""The faults that matter most, short: what only a longer time shows is `make chaos`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import aiohttp
import pytest

from operate.broker.local import LocalBroker, LocalBrokerOptions
from tests.brokers import BrokerAddress, start_quickly
from tests.chaos.control import control_arm
from tests.chaos.faults import FAULTS
from tests.chaos.pace import SHORT
from tests.chaos.run import Deeds, Row, Step, mixed, play
from tests.chaos.scene import Scene
from tests.forks import FULL
from tests.judge import Wrong
from tests.ledger import as_sent, sequence
from tests.processes import Process, status_of
from tests.stage import MakeStage
from tests.verifying import VerifyingReceiver, fail_share
from tests.waiting import until

# A fault is followed by everything that was accepted meanwhile.
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(240)]

SEED = 7

USERS = [f"user-{number}" for number in range(50)]
SEND_DEADLINE_S = 3.0
#: Between two events of a user.
EVERY_S = 0.05 if FULL else 0.2


@pytest.fixture(scope="module")
def own_broker() -> Iterator[LocalBroker]:
    """One that may be killed, and that drops silent connections sooner."""
    options = LocalBrokerOptions(extra_conf=SHORT.broker_conf(), is_short_lived=True)
    with start_quickly(options) as broker:
        yield broker


def doing(*names: str) -> Deeds:
    """These faults, one after the other."""

    async def do(scene: Scene) -> None:
        for name in names:
            await FAULTS[name](scene, Random(f"{SEED} {name}"))

    return do


async def assert_kept_through(broker: LocalBroker, folder: Path, *names: str) -> Row:
    row = await play(broker, folder, Row(", ".join(names), SEED), SHORT, doing(*names))
    assert row.wrong == [], row
    return row


async def test_order_is_kept_while_the_topic_is_unloaded_and_worker_and_broker_are_killed(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    # The broker last: on a busy machine it has no storage to save anything in for seconds after.
    await assert_kept_through(
        own_broker, tmp_path, "topic-unloaded", "worker-killed", "broker-killed"
    )


@pytest.mark.long
async def test_order_is_kept_while_workers_are_stopped_scaled_and_their_connections_reset(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    await assert_kept_through(
        own_broker, tmp_path, "worker-terminated", "workers-scaled", "connections-reset"
    )


@pytest.mark.long
async def test_workers_that_were_frozen_or_cut_off_start_nothing_that_another_has_taken_over(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    """Both at once: the third one goes on."""
    row = Row("worker-frozen beside worker-cut-off", SEED)
    steps = [
        Step(beside, 0.0, name, f"{SEED} {name}")
        for beside, name in enumerate(("worker-frozen", "worker-cut-off"))
    ]
    await play(own_broker, tmp_path, row, SHORT, mixed(steps))
    assert row.wrong == [], row


@pytest.mark.long
async def test_order_is_kept_while_dead_letters_and_events_are_refused(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    row = await assert_kept_through(own_broker, tmp_path, "dead-letters-refused", "topic-full")
    assert row.dead_lettered


@pytest.mark.long
async def test_order_is_kept_while_the_receiver_hangs_and_is_closed(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    await assert_kept_through(own_broker, tmp_path, "receiver-hanging", "receiver-closed")


async def is_ready(process: Process, expected: int, within_s: float) -> None:
    """Wait until its readiness is answered with this status."""
    async with aiohttp.ClientSession() as http:

        async def is_answered() -> bool:
            return await status_of(http, f"{process.url}/readyz") == expected

        await until(is_answered, within_s, process.tail)


async def refusal(url: str) -> tuple[int, str, float]:
    """Post one event; the status, `Retry-After` and how long the answer took."""
    began = time.monotonic()
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/events", json=as_sent([("nobody", 1)])) as answer,
    ):
        assert answer.content_type == "application/problem+json"
        return answer.status, answer.headers["Retry-After"], time.monotonic() - began


async def test_both_sides_recover_by_themselves_when_the_broker_is_back(
    own_broker: LocalBroker, make_stage: MakeStage
) -> None:
    address = BrokerAddress.of(own_broker)
    stage = await make_stage("crm", partitions=3, broker=address)
    receiver = await stage.receive(VerifyingReceiver(fail_share(0.1, seed=5, delay_s=0.01)))
    env = {"KEYLANE_INGEST__SEND_DEADLINE_S": str(SEND_DEADLINE_S)}
    ingest = await stage.ingest(env=env)
    ledger = stage.ledger_of(ingest)
    options = ["--concurrency", "8", "--backoff-min", "0.3", "--max-attempts", "50"]
    worker = await stage.dispatch("crm", receiver.url, *options)
    before = sequence(USERS, 40)
    await ledger.post(before)
    await receiver.delivers(len(before) // 4, 20.0)

    # Requests are on their way while the broker goes, while it is away, and when it is back.
    is_enough = asyncio.Event()
    posting = asyncio.create_task(
        ledger.keep_posting(USERS, is_enough, every_s=EVERY_S, first=41, batch=10)
    )
    await until(lambda: len(ledger.promised) > len(before))
    await asyncio.to_thread(own_broker.terminate)
    stopped_at = time.monotonic()
    await is_ready(ingest, 503, 10.0)
    await is_ready(worker, 503, 10.0)
    status, retry_after, took_s = await refusal(ingest.url)
    assert status == 503
    assert int(retry_after) >= 1
    assert took_s < SEND_DEADLINE_S + 5  # of which it needs 0.1 s on an idle machine

    await asyncio.to_thread(own_broker.restart)
    await is_ready(ingest, 200, 30.0)
    await is_ready(worker, 200, 30.0)
    is_enough.set()
    await posting
    await receiver.delivers(len(ledger.promised), 60.0)

    assert ledger.refusals
    assert set(ledger.refusals) == {503}
    book = receiver.book
    assert ledger.lost(book.delivered) == []
    verdict = book.verdict()
    assert verdict.of(Wrong.INVERSION) == []
    assert verdict.of(Wrong.OVERLAP) == []
    # A broker saves acknowledgements above a hole late: what it forgot comes again.
    assert verdict.unexplained([stopped_at], within_s=60.0) == []


async def test_without_lanes_the_same_traffic_is_caught_out_of_order(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    row = await control_arm(own_broker, tmp_path, SEED)

    assert row.inversions > 0
    assert row.wrong == []
