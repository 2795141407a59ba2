"""A topic of the test's own, with the processes of the product around it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from keylane.admin import PulsarAdmin
from keylane.names import partition_topic
from keylane.settings import PulsarSettings
from keylane.topics import ensure_destination, ensure_topic
from tests.brokers import BrokerAddress
from tests.forks import Command, completed, start
from tests.judge import Book
from tests.ledger import DeadLetter, Ledger, dead_letters
from tests.processes import Process
from tests.verifying import VerifyingReceiver
from tests.waiting import until


class Stage:
    """What a test runs; everything that it started ends with it."""

    def __init__(self, broker: BrokerAddress, folder: Path, partitions: int) -> None:
        self.broker = broker
        self.folder = folder
        self.partitions = partitions
        self.topic = f"e2e-{uuid.uuid4().hex[:12]}"
        self._exits = contextlib.AsyncExitStack()
        self._processes: list[Process] = []
        self._receivers: list[VerifyingReceiver] = []
        self._numbers = itertools.count(1)

    async def set_up(self, *destinations: str) -> None:
        """Make the topic and what these destinations need."""
        async with self.admin() as admin:
            await ensure_topic(admin, self.topic, self.partitions)
            for name in destinations:
                await ensure_destination(admin, self.topic, name)

    def admin(self) -> PulsarAdmin:
        return PulsarAdmin(PulsarSettings(admin_url=self.broker.admin_url))

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        service_url: str | None = None,
    ) -> Process:
        """Start a command on this topic; returns before it is ready."""
        broker = self.broker
        service_url = service_url or broker.service_url
        where = ["--service-url", service_url, "--admin-url", broker.admin_url]
        log = self.folder / f"{self.topic}-{next(self._numbers)}-{arguments[0]}.log"
        process = Process([*arguments, *where, "--topic", self.topic], log, dict(env or {}))
        self._processes.append(process)
        self._exits.push_async_callback(process.close)
        return process

    async def keylane(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command on this topic to its end, which has to be with this code."""
        where = ["--service-url", self.broker.service_url, "--admin-url", self.broker.admin_url]
        arguments = [*words, *where, "--topic", self.topic]
        name = f"{self.topic}-{next(self._numbers)}-{words[0]}"
        out, err = (self.folder / f"{name}.{kind}" for kind in ("out", "err"))
        command = Command(arguments, self.folder, os.environ.copy(), out, err)
        process = start(command)
        try:
            await until(lambda: process.poll() is not None, 120.0)
        finally:
            process.kill()
        done = completed(command, process)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    async def told(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The same with --json: what it printed."""
        done = await self.keylane(*words, "--json", code=code)
        return json.loads(done.stdout) if done.stdout else {}

    async def ingest(self, *options: str, env: Mapping[str, str] | None = None) -> Process:
        """Start `keylane ingest` and wait until it is ready."""
        process = self.run("ingest", "--port", "0", *options, env=env)
        await process.ready()
        return process

    async def ledger(self) -> Ledger:
        """A ledger that posts to an ingest of its own."""
        return self.ledger_of(await self.ingest())

    def ledger_of(self, ingest: Process) -> Ledger:
        return Ledger(ingest.url)

    async def dispatch(self, name: str, to: str, *options: str, workers: int = 1) -> Process:
        """Start `keylane dispatch` and wait until all its workers are ready."""
        process = self.run("dispatch", name, "--to", to, "--workers", str(workers), *options)
        await process.ready(serving=workers)
        return process

    async def receive(self, receiver: VerifyingReceiver, port: int = 0) -> VerifyingReceiver:
        self._receivers.append(receiver)
        return await self._exits.enter_async_context(receiver.serving(port))

    async def dead_letters(self, destination: str) -> list[DeadLetter]:
        return await dead_letters(self.broker.service_url, self.topic, destination)

    async def stored(self) -> int:
        """How many messages the topic's partitions ever took, while none was unloaded."""
        async with self.admin() as admin:
            parts = [partition_topic(self.topic, number) for number in range(self.partitions)]
            return sum([(await admin.stats(part))["msgInCounter"] for part in parts])

    async def backlog(self, destination: str) -> int:
        """What the broker still keeps for a destination."""
        async with self.admin() as admin:
            parts = [partition_topic(self.topic, number) for number in range(self.partitions)]
            found = [await admin.subscription_stats(part, destination) for part in parts]
        return sum(int(statistics["msgBacklog"]) for statistics in found if statistics)

    async def close(self) -> None:
        for process in self._processes:
            process.ask_to_stop()  # all at once, or each would be waited for in turn
        await self._exits.aclose()
        # Shown only if the test failed, or with -rP.
        for receiver in self._receivers:
            sys.stderr.write(f"\nreceiver: {receiver.book}; {receiver.book.verdict()}\n")
        for process in self._processes:
            sys.stderr.write(process.tail() + "\n")


def assert_kept(
    book: Book,
    ledger: Ledger,
    dead: list[DeadLetter] | None = None,
    *,
    cut_at: tuple[float, ...] = (),
) -> None:
    """Nothing lost, out of order, overlapping or twice; but for what was cut off at a moment."""
    dead_at = {letter.event: letter.at for letter in dead or []}
    assert ledger.lost(book.delivered, dead_at) == []
    verdict = book.verdict(dead_at)
    assert verdict.unexplained(cut_at) == [], str(verdict)


MakeStage: TypeAlias = Callable[..., Awaitable[Stage]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def make_stage(local_broker: BrokerAddress, tmp_path: Path) -> AsyncIterator[MakeStage]:
    """`make_stage("crm", partitions=3)`: a topic with this destination, nothing running yet."""
    async with contextlib.AsyncExitStack() as stages:

        async def make(
            *destinations: str, partitions: int = 3, broker: BrokerAddress | None = None
        ) -> Stage:
            stage = Stage(broker or local_broker, tmp_path, partitions)
            stages.push_async_callback(stage.close)
            await stage.set_up(*destinations)
            return stage

        yield make
