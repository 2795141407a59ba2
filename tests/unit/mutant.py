"""A deliberate breakage of the lanes, and how it is looked for: on a mutated copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: What the schedules and scenarios need of the project.
COPIED: Final = (
    "keylane",
    "dispatch",
    "pyproject.toml",
    "tests/unit/schedules.py",
    "tests/unit/lanes_*.py",
    "tests/unit/__pycache__/schedules.*",
    "tests/unit/__pycache__/lanes_*",
)
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
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.symlink)
        else:
            target.symlink_to(source)
    if mutant:
        broken = into / mutant.file
        whole = broken.read_text()
        broken.unlink()
        broken.write_text(whole.replace(mutant.old, mutant.new))


def outcome_of(mutant: Mutant | None, seeds: int = SEEDS) -> str:
    """What is found; empty if nothing is."""
    with tempfile.TemporaryDirectory() as directory:
        prepare(mutant, Path(directory))
        command = [sys.executable, "-m", *SCHEDULES, str(seeds)]
        if mutant:
            command += ["--first", str(mutant.first)]
        if mutant and mutant.scenario:
            command = [sys.executable, "-m", SCENARIOS, mutant.scenario]
        environment = os.environ | {"PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"nothing ran: {done.stdout}{done.stderr}")
    return done.stdout.partition("\n")[0]
