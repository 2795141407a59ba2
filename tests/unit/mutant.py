"""A deliberate breakage of the lanes, and how it is looked for: on a mutated copy."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.forks import FORKS

ROOT: Final = Path(__file__).parents[2]
#: What the schedules and scenarios need of the project, but for `keylane`, in which no mutant is.
COPIED: Final = (
    "dispatch/*",
    "pyproject.toml",
    "tests/unit/schedules.py",
    "tests/unit/lanes_*.py",
    "tests/unit/__pycache__/schedules.*",
    "tests/unit/__pycache__/lanes_*",
)
OURS: Final = frozenset({"dispatch", "tests"})
SCHEDULES: Final = ("tests.unit.schedules", "--hangs", "--schedules")
SCENARIOS: Final = "tests.unit.lanes_scenarios"
#: Every mutant is found among the first so many.
SEEDS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """Says what is broken, and how."""

    name: str
    file: str
    old: str
    new: str
    #: Where the schedules begin. It saves time to know a seed that finds it.
    first: int = 0
    #: The scenario that finds it, if the schedules meet it too seldom.
    scenario: str = ""


def in_lanes(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/lanes.py", old, new, first, scenario)


def in_absences(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/absences.py", old, new, first, scenario)


def in_backoffs(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/backoffs.py", old, new, first, scenario)


def in_settling(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/settling.py", old, new, first, scenario)


def in_redelivery(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/redelivery.py", old, new, first, scenario)


def in_partition(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/partition.py", old, new, first, scenario)


def in_tally(name: str, old: str, new: str, *, first: int = 0, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/tally.py", old, new, first, scenario)


def prepare(mutant: Mutant | None, into: Path) -> None:
    """Link to what is needed, with what Python has compiled of it, and break a copy of one file."""
    for source in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        target = into / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    if mutant:
        broken = into / mutant.file
        whole = broken.read_text()
        broken.unlink()
        broken.write_text(whole.replace(mutant.old, mutant.new))


def outcome_of(mutant: Mutant | None, seeds: int = SEEDS) -> str:
    """What is found; empty if nothing is."""
    words = [*SCHEDULES, str(seeds), "--first", str(mutant.first if mutant else 0)]
    if mutant and mutant.scenario:
        words = [SCENARIOS, mutant.scenario]
    with tempfile.TemporaryDirectory() as directory:
        prepare(mutant, Path(directory))
        with ProcessPoolExecutor(1, FORKS) as process:
            return process.submit(_run, directory, words).result()


def _run(directory: str, words: list[str]) -> str:
    """`python -m` these words there, in a process of its own; what the first line says."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.argv = words
    sys.dont_write_bytecode = True
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code not in (0, 1):
            raise RuntimeError(f"nothing ran: {said.getvalue()}") from ended
    return said.getvalue().partition("\n")[0]
