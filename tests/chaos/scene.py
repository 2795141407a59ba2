"""The product at work, and what is known of what it is put through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from operate.broker.local import LocalBroker
from tests.brokers import BrokerAddress
from tests.chaos.crew import DESTINATION, Crew
from tests.chaos.explain import Absence, Cut
from tests.chaos.pace import Pace
from tests.chaos.stalls import Span
from tests.judge import Attempt
from tests.ledger import Ledger
from tests.stage import Stage
from tests.verifying import Answer, Plan, VerifyingReceiver

WORKERS = 3
PARTITIONS = 3
#: Their events never fail by plan.
HEALTHY = tuple(f"healthy-{number}" for number in range(20))
#: One attempt in ten fails.
FLAKY = tuple(f"flaky-{number}" for number in range(30))
#: Every attempt fails, so all they have is dead-lettered.
DOOMED = tuple(f"doomed-{number}" for number in range(10))
FAILING_SHARE = 0.1
#: What a receiver takes for an answer, at least and at most: a dozen attempts run at any moment.
LATENCY_S = (0.01, 0.15)
#: Of an attempt; longer than the slowest answer.
TIMEOUT_S = 2.0

#: Doomed users hold up nothing but themselves, for two seconds an event.
OPTIONS = (
    *("--concurrency", "16", "--timeout", f"{TIMEOUT_S:g}", "--max-attempts", "3"),
    *("--backoff-min", "0.3", "--backoff-max", "1"),
)
#: Either nothing is paged out, or nearly everything that waits.
_PAYLOADS_KEPT = ("1000", "5")
#: From one event of a user to the next.
_EVERY_S = 0.3
_DOOMED_EVERY_S = 3.0
#: A broker that is down, starts, and is found again by its clients takes part of that.
_PATIENCE_S = 240.0


@dataclass(slots=True)
class Scene:
    """One topic with ingest, workers, a receiver and a ledger."""

    stage: Stage
    broker: LocalBroker
    receiver: VerifyingReceiver
    ledger: Ledger
    crew: Crew
    pace: Pace
    #: What every attempt gets instead of its planned answer.
    trouble: Answer | None = None
    cuts: list[Cut] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    #: When healthy users had to wait, by what was done to them.
    troubled: list[Span] = field(default_factory=list)
    #: One fault at a time for each of the two.
    broker_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    receiver_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @contextlib.contextmanager
    def trying(self, after_s: float = 0.0) -> Iterator[None]:
        """Users may wait while this lasts, and so long after it."""
        began_at = time.monotonic()
        try:
            yield
        finally:
            self.troubled.append((began_at, time.monotonic() + after_s))

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Post the next event of every user so often; raises what became of the posting."""
        is_enough = asyncio.Event()
        posting = [
            asyncio.create_task(self.ledger.keep_posting(users, is_enough, every_s=every_s))
            for users, every_s in (((*HEALTHY, *FLAKY), _EVERY_S), (DOOMED, _DOOMED_EVERY_S))
        ]
        try:
            yield
            is_enough.set()
            await asyncio.gather(*posting)
        finally:
            for task in posting:
                task.cancel()
            await asyncio.gather(*posting, return_exceptions=True)

    async def goes_on(self, events: int = 200, within_s: float = 60.0) -> None:
        """Wait until so many more events are delivered."""
        await self.receiver.delivers(len(self.receiver.book.delivered) + events, within_s)


def _plan(seed: int, scene: list[Scene]) -> Plan:
    def plan(attempt: Attempt) -> Answer:
        if scene and scene[0].trouble is not None:
            return scene[0].trouble
        rng = Random(f"{seed} {attempt.user} {attempt.n} {attempt.seen}")
        fails = attempt.user in DOOMED or (attempt.user in FLAKY and rng.random() < FAILING_SHARE)
        return Answer(500 if fails else 200, rng.uniform(*LATENCY_S))

    return plan


@contextlib.asynccontextmanager
async def set_up(broker: LocalBroker, folder: Path, seed: int, pace: Pace) -> AsyncIterator[Scene]:
    """Everything that is put to the test, ready and without traffic; it all ends with this."""
    address = BrokerAddress.of(broker)
    stage = Stage(address, folder, PARTITIONS)
    scenes: list[Scene] = []
    try:
        await stage.set_up(DESTINATION)
        receiver = await stage.receive(VerifyingReceiver(_plan(seed, scenes)))
        rng = Random(f"{seed} crew")
        kept = {"KEYLANE_DISPATCH__LANE_PAYLOAD_EVENTS": rng.choice(_PAYLOADS_KEPT)}
        crew = Crew(stage, receiver.url, OPTIONS, {**pace.env, **kept}, rng)
        async with crew.linked():
            ledger, _ = await asyncio.gather(stage.ledger(), crew.start(WORKERS))
            ledger.patience_s = _PATIENCE_S
            scenes.append(Scene(stage, broker, receiver, ledger, crew, pace))
            try:
                yield scenes[0]
            finally:
                # Before the links go, so that the workers leave in order.
                await stage.close()
    except BaseException:
        await stage.close()
        raise
