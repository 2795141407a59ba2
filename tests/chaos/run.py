"""One run: traffic, faults, healing, draining, and the judgement over all of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from typing_extensions import override

from operate.broker.local import LocalBroker
from tests.chaos.crew import DESTINATION
from tests.chaos.explain import Explanations, late_starts
from tests.chaos.faults import FAULTS
from tests.chaos.pace import Pace
from tests.chaos.scene import HEALTHY, Scene, set_up
from tests.chaos.stalls import stalls
from tests.judge import Numbered, Wrong
from tests.waiting import until

#: From the end of the last fault to the last event, at most.
DRAINED_WITHIN_S: Final = 120.0
#: Until the broker has the last acknowledgements.
ACKNOWLEDGED_WITHIN_S: Final = 15.0
#: A healthy user may wait so long beside what a fault takes by itself: for clients that try to
#: connect again after growing delays, and for keys that move.
MAY_STALL_S: Final = 20.0
MIX: Final = "mix"
#: Characters of an error that stand in a row.
_TOLD: Final = 500

#: What is done to a scene.
Deeds: TypeAlias = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Counted:
    """How many were found, and how many of them nothing explains."""

    found: int = 0
    unexplained: int = 0

    @override
    def __str__(self) -> str:
        return f"{self.found - self.unexplained}/{self.unexplained}"


@dataclass(slots=True)
class Row:
    """What came of one run."""

    fault: str
    seed: int
    #: What was done, as far as it was drawn.
    plan: list[str] = field(default_factory=list)
    accepted: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    lost: int = 0
    inversions: int = 0
    overlaps: Counted = Counted()
    duplicates: Counted = Counted()
    late_starts: int = 0
    stall_s: float = 0.0
    seconds: float = 0.0
    #: Seconds until it was set up, until the faults were over, and until all was delivered.
    ready_s: float = 0.0
    healed_s: float = 0.0
    drained_s: float = 0.0
    #: Why it is not as it should be; empty if it is.
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of a mix; two rows of steps run beside each other."""

    beside: int
    after_s: float
    fault: str
    seed: str

    @override
    def __str__(self) -> str:
        return f"{'ab'[self.beside]} +{self.after_s:.1f} s {self.fault}"


def drawn(seed: int, pace: Pace) -> list[Step]:
    """The steps of one mix: the same ones for the same seed."""
    rng = Random(f"{seed} mix")
    names = sorted(FAULTS)
    return [
        Step(beside, rng.uniform(0, 8) * pace.share, rng.choice(names), f"{seed} {beside} {number}")
        for beside in (0, 1)
        for number in range(rng.randint(2, 4))
    ]


def alone(name: str, seed: int) -> Deeds:
    """One fault by itself."""
    return lambda scene: FAULTS[name](scene, Random(f"{seed} {name}"))


def mixed(steps: Sequence[Step]) -> Deeds:
    """Two sequences of faults at once."""

    async def take(scene: Scene, beside: int) -> None:
        for step in steps:
            if step.beside == beside:
                await asyncio.sleep(step.after_s)
                await FAULTS[step.fault](scene, Random(step.seed))

    async def take_all(scene: Scene) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(take(scene, 0))
            both.create_task(take(scene, 1))

    return take_all


async def play(broker: LocalBroker, folder: Path, row: Row, pace: Pace, deeds: Deeds) -> Row:
    """Do it to a scene of its own, and fill in the row."""
    began_at = time.monotonic()
    with quiet(folder):
        async with _told(row), set_up(broker, folder, row.seed, pace) as scene:
            row.ready_s = time.monotonic() - began_at
            await _perform(scene, row, deeds, began_at)
    row.seconds = time.monotonic() - began_at
    return row


@contextlib.contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """What a stage has to say goes into a file beside the logs."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        (folder / "said.txt").write_text(said.getvalue())


async def _perform(scene: Scene, row: Row, deeds: Deeds, began_at: float) -> None:
    async with _told(row), scene.traffic():
        await scene.goes_on()
        async with _told(row):
            await deeds(scene)
        row.healed_s = time.monotonic() - began_at
        if not row.wrong:
            await scene.goes_on()
    with contextlib.suppress(AssertionError):
        await until(lambda: _is_all_done(scene), DRAINED_WITHIN_S)
    row.drained_s = time.monotonic() - began_at
    async with _told(row):
        await _judge(scene, row)
    async with _told(row):
        await _has_nothing_left(scene)


@contextlib.asynccontextmanager
async def _told(row: Row) -> AsyncIterator[None]:
    """What fails in it stands in the row, and the run goes on."""
    try:
        yield
    except* Exception as errors:  # noqa: BLE001  whatever it is, the others are to be judged
        row.wrong += [f"{type(e).__name__}: {str(e)[:_TOLD]}" for e in _leaves(errors)]


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _is_all_done(scene: Scene) -> bool:
    await asyncio.sleep(0.5)  # reading the dead letters takes a while
    left = scene.ledger.promised - scene.receiver.book.delivered
    return not left or left <= (await _dead_at(scene)).keys()


async def _dead_at(scene: Scene) -> dict[Numbered, float]:
    """When each was dead-lettered first, at the latest: the broker keeps whole milliseconds."""
    letters = await scene.stage.dead_letters(DESTINATION)
    letters.sort(key=lambda letter: -letter.at)
    return {letter.event: letter.at + 0.001 for letter in letters}


async def _judge(scene: Scene, row: Row) -> None:
    book, ledger = scene.receiver.book, scene.ledger
    dead_at = await _dead_at(scene)
    verdict = book.verdict(dead_at)
    explanations = Explanations(scene.cuts, book, dead_at, scene.crew.noticed())
    row.accepted = len(ledger.promised)
    row.delivered = len(book.delivered & ledger.promised)
    row.dead_lettered = len(dead_at.keys() & ledger.promised)
    lost = ledger.lost(book.delivered, dead_at)
    row.lost = len(lost)
    inversions = verdict.of(Wrong.INVERSION)
    row.inversions = len(inversions)
    overlaps, duplicates = (
        explanations.unexplained(verdict, wrong) for wrong in (Wrong.OVERLAP, Wrong.DUPLICATE)
    )
    row.overlaps = Counted(len(verdict.of(Wrong.OVERLAP)), len(overlaps))
    row.duplicates = Counted(len(verdict.of(Wrong.DUPLICATE)), len(duplicates))
    late = late_starts(book, scene.absences)
    row.late_starts = len(late)
    waits = list(stalls(book, ledger.promised_at, HEALTHY, dead_at))
    row.stall_s = max((wait.seconds for wait in waits), default=0.0)
    stalled = [w for w in waits if w.outside(scene.troubled) > MAY_STALL_S]
    told = [f"{'explained' if explanations.explain(f) else 'WRONG'} {f}" for f in verdict.flags]
    (scene.stage.folder / "flags.txt").write_text("\n".join([*map(str, scene.cuts), *told]))
    for name, found in (
        ("lost", lost),
        ("inversion", inversions),
        ("unexplained overlap", overlaps),
        ("unexplained duplicate", duplicates),
        ("start after the loss of its consumer", late),
        ("stall", stalled),
    ):
        if found:
            row.wrong.append(f"{len(found)} {name}: {found[:3]}")


async def _has_nothing_left(scene: Scene) -> None:
    """Everything that was done is acknowledged too."""

    async def is_empty() -> bool:
        return not await scene.stage.backlog(DESTINATION)

    await until(is_empty, ACKNOWLEDGED_WITHIN_S, lambda: "the broker keeps what is done")
