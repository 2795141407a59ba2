"""Destinations of `keylane.toml`: reloaded while events flow, tried out, their secrets rotated."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.forks import KEYLANE
from tests.judge import Book
from tests.ledger import sequence
from tests.processes import Process
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import VerifyingReceiver, fail_share
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(90)]

USERS = [f"user-{number}" for number in range(50)]
EVENTS = sequence(USERS, 20)
FAILING = fail_share(0.1, seed=7, delay_s=0.01)
OLD = "whsec_b2xkIG9sZCBvbGQgb2xkIG9sZCBvbGQ="


class Configured:
    """`keylane dispatch crm` with its settings in a file."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.file = stage.folder / "crm.toml"
        self.process: Process

    def write(self, *lines: str) -> None:
        self.file.write_text("\n".join(lines), encoding="utf-8")

    async def start(self, workers: int = 1) -> None:
        words = ["crm", "--config", str(self.file), "--workers", str(workers)]
        self.process = self.stage.run("dispatch", *words)
        await self.process.ready(serving=workers)

    async def reload(self, event: str, count: int) -> None:
        """SIGHUP; wait until so many processes in all have logged this."""
        self.process.signal(signal.SIGHUP)
        await until(lambda: len(self.process.logged(event)) >= count, 10.0, self.process.tail)


def address(receiver: VerifyingReceiver, *more: str) -> list[str]:
    retries = ["max_attempts = 20", "backoff_min_s = 0.05", "backoff_max_s = 0.2"]
    return ["[destinations.crm]", f'to = "{receiver.url}"', *retries, *more]


def rotate(config: Path, *options: str) -> str:
    """`keylane destination rotate-secret crm`; returns what it prints."""
    words = [str(KEYLANE), "destination", "rotate-secret", "crm", "--config", str(config), *options]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


async def delivered(book: Book, count: int) -> None:
    await until(lambda: len(book.delivered) >= min(count, len(EVENTS)), 20.0)


@pytest.mark.long
async def test_addresses_change_under_events_that_fail_and_every_users_order_is_kept(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=3)
    book = Book()
    receivers = [
        await stage.receive(VerifyingReceiver(FAILING, book=book, keeps_requests=True))
        for _ in range(2)
    ]
    crm = Configured(stage)
    crm.write(*address(receivers[0]))
    await crm.start(workers=2)
    ledger = await stage.ledger()
    posting = asyncio.create_task(ledger.post(EVENTS, batch=10))

    for turn in range(1, 5):
        await delivered(book, len(book.delivered) + 100)
        crm.write(*address(receivers[turn % 2], f"timeout_s = {10 + turn}"))
        await crm.reload("configuration.reloaded", 2 * turn)
    await posting
    await receivers[0].delivers(len(EVENTS), 45.0)

    assert_kept(book, ledger)
    assert len(book.attempts) > 1.05 * len(EVENTS)
    ports = {attempt.headers["host"] for attempt in book.attempts}
    assert len(ports) == 2
    assert await crm.process.stop() == 0
    assert await stage.backlog("crm") == 0


async def test_a_rotated_secret_signs_beside_the_old_one_without_a_restart(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage("crm")
    receiver = await stage.receive(VerifyingReceiver(keeps_requests=True))
    secret = tmp_path / "secret"
    secret.write_text(OLD)
    crm = Configured(stage)
    crm.write(*address(receiver, f'secret = "file:{secret}"'))
    await crm.start()
    ledger = await stage.ledger()

    new = await asyncio.to_thread(rotate, crm.file)
    await crm.reload("configuration.reloaded", 1)
    await ledger.post([("user-1", 1)])
    await receiver.delivers(1)
    await asyncio.to_thread(rotate, crm.file, "--finish")
    await crm.reload("configuration.reloaded", 2)
    await ledger.post([("user-1", 2)])
    await receiver.delivers(2)

    both, only_new = (receiver.book.of("user-1", n)[0] for n in (1, 2))
    for known in (OLD, new):
        Webhook(known).verify(both.body, dict(both.headers))
    assert len(only_new.headers["webhook-signature"].split()) == 1
    Webhook(new).verify(only_new.body, dict(only_new.headers))
    assert new not in crm.process.tail()


@pytest.mark.long
async def test_settings_with_mistakes_stop_nothing_and_nobody(make_stage: MakeStage) -> None:
    stage = await make_stage("crm")
    receiver = await stage.receive(VerifyingReceiver())
    crm = Configured(stage)
    crm.write(*address(receiver))
    await crm.start(workers=2)
    crm.write(*address(receiver, "jiter = 1"))

    await crm.reload("configuration.refused", 1)

    (refused,) = crm.process.logged("configuration.refused")
    assert "did you mean jitter?" in refused["problems"][0]
    ledger = await stage.ledger()
    await ledger.post([("user-1", 1)])
    await receiver.delivers(1)
