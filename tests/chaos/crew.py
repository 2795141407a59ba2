"""The workers of a destination, each behind a link of its own to the broker."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from random import Random

from operate.exits import UNAVAILABLE
from tests.chaos.explain import Notice
from tests.chaos.proxy import Proxy
from tests.processes import Process
from tests.stage import Stage
from tests.waiting import until

DESTINATION = "crm"
AT_MOST = 4
#: While the broker is away a worker waits for it, gives up, and is started again.
READY_WITHIN_S = 90.0
_STARTS = 6


class Worker:
    """One `keylane dispatch` process. A successor of the same name is another one."""

    def __init__(self, name: str, sender: str, process: Process, link: Proxy) -> None:
        #: The consumer's name, that the broker shares users out by.
        self.name = name
        #: What its requests carry, so that the receiver can tell whose they are.
        self.sender = sender
        self.process = process
        self.link = link


class Crew:
    """Up to four workers that are started, stopped and lent out one by one."""

    def __init__(
        self, stage: Stage, to: str, options: Sequence[str], env: Mapping[str, str], rng: Random
    ) -> None:
        assert stage.broker.started is not None
        self._stage = stage
        self._to = to
        self._options = options
        self._env = env
        self._rng = rng
        port = stage.broker.started.ports.service
        self._links = {f"worker-{number}": Proxy(port) for number in range(AT_MOST)}
        self._numbers = itertools.count(1)
        self._working: dict[str, Worker] = {}
        #: Names that one fault has, or that are about to start or to end.
        self._lent: set[str] = set()
        self._processes: dict[str, Process] = {}

    @contextlib.asynccontextmanager
    async def linked(self) -> AsyncIterator[Crew]:
        async with contextlib.AsyncExitStack() as exits:
            for link in self._links.values():
                await exits.enter_async_context(link.serving())
            yield self

    @property
    def names(self) -> list[str]:
        return sorted(self._working)

    def at_hand(self) -> list[str]:
        """The senders that nobody has borrowed."""
        return [self._working[name].sender for name in self._idle()]

    def logged(self, event: str) -> int:
        """How often any worker, gone or not, has logged this kind of occurrence."""
        return sum(len(process.logged(event)) for process in self._processes.values())

    def noticed(self) -> list[Notice]:
        """When each of them, gone or not, has logged that it lost a connection."""
        steady_s = time.monotonic() - time.time()
        return [
            Notice(sender, datetime.fromisoformat(line["ts"]).timestamp() + steady_s)
            for sender, process in self._processes.items()
            for line in process.logged("connection.lost")
        ]

    async def start(self, count: int = 1) -> None:
        """Start so many more, and wait until they are ready."""
        free = sorted(set(self._links) - set(self._working) - self._lent)
        names = self._rng.sample(free, min(count, len(free)))
        self._lent.update(names)
        try:
            await asyncio.gather(*(self.launch(name) for name in names))
        finally:
            self._lent.difference_update(names)

    async def launch(self, name: str) -> Worker:
        """Start the one of that name, which must not be running; again if the broker is away."""
        for starts_left in reversed(range(_STARTS)):
            worker = self._run(name)
            try:
                await worker.process.ready(within_s=READY_WITHIN_S)
            except AssertionError:
                if worker.process.exit_code != UNAVAILABLE or not starts_left:
                    raise
                self.dismiss(worker)
            else:
                return worker
        raise AssertionError  # the last turn returned or raised

    def _run(self, name: str) -> Worker:
        sender = f"{name}.{next(self._numbers)}"
        link = self._links[name]
        process = self._stage.run(
            *("dispatch", DESTINATION, "--to", f"{self._to}/{sender}"),
            *("--consumer-name", name, *self._options),
            env=self._env,
            service_url=link.url,
        )
        self._processes[sender] = process
        self._working[name] = worker = Worker(name, sender, process, link)
        return worker

    def dismiss(self, worker: Worker) -> None:
        """It is gone, by whoever's doing."""
        del self._working[worker.name]

    @contextlib.asynccontextmanager
    async def borrow(self, rng: Random, beside: int = 0) -> AsyncIterator[Worker]:
        """Any worker that nobody else has, while so many others work."""
        await until(lambda: len(self._idle()) > 0, 180.0, lambda: f"all of {self.names} are lent")
        if (missing := beside + 1 - len(self._idle())) > 0:
            await self.start(missing)
        name = rng.choice(self._idle())
        self._lent.add(name)
        try:
            yield self._working[name]
        finally:
            self._lent.discard(name)

    async def become(self, count: int, rng: Random) -> None:
        """Start or stop workers until there are so many, as far as nobody else has them."""
        working = len(self._working)
        if count > working:
            await self.start(count - working)
            return
        spare = self._idle()
        leaving = rng.sample(spare, min(working - count, max(0, len(spare) - 1)))
        self._lent.update(leaving)
        try:
            await asyncio.gather(*(self.stop(self._working[name]) for name in leaving))
        finally:
            self._lent.difference_update(leaving)

    async def stop(self, worker: Worker) -> None:
        """SIGTERM; it has to end in order."""
        code = await worker.process.stop(within_s=45.0)
        assert code == 0, worker.process.tail()
        self.dismiss(worker)

    async def all_ready(self, within_s: float = 90.0) -> None:
        await asyncio.gather(*(w.process.ready(1, within_s) for w in self._working.values()))

    def _idle(self) -> list[str]:
        return sorted(set(self._working) - self._lent)
