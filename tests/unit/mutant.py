"""A deliberate breakage of the lanes, and how the schedules are set on it: on a mutated copy."""

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
#: What the schedules and the tests of single rules need of the project.
COPIED: Final = (
    "keylane",
    "dispatch",
    "pyproject.toml",
    "tests/unit/schedules.py",
    "tests/unit/lanes_*.py",
    "tests/unit/test_lanes.py",
    "tests/unit/test_lanes_meetings.py",
    "tests/unit/test_lane_*.py",
)
SCHEDULES: Final = ("tests.unit.schedules", "--hangs", "--schedules")
RULES: Final = ("pytest", "-qx", "-p", "no:cacheprovider", "tests/unit")
#: Every mutant is found among the first so many.
SEEDS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """Says what is broken, and how."""

    name: str
    file: str
    old: str
    new: str
    #: Found by the tests of single rules: the schedules meet it too seldom.
    is_rare: bool = False
    #: Where the search begins. It saves time to know a seed that finds it.
    first: int = 0


def in_lanes(name: str, old: str, new: str, *, is_rare: bool = False, first: int = 0) -> Mutant:
    return Mutant(name, "dispatch/lanes.py", old, new, is_rare, first)


def in_absences(name: str, old: str, new: str, *, is_rare: bool = False, first: int = 0) -> Mutant:
    return Mutant(name, "dispatch/absences.py", old, new, is_rare, first)


def in_redelivery(
    name: str, old: str, new: str, *, is_rare: bool = False, first: int = 0
) -> Mutant:
    return Mutant(name, "dispatch/redelivery.py", old, new, is_rare, first)


def in_partition(name: str, old: str, new: str, *, is_rare: bool = False, first: int = 0) -> Mutant:
    return Mutant(name, "dispatch/partition.py", old, new, is_rare, first)


def in_tally(name: str, old: str, new: str, *, is_rare: bool = False, first: int = 0) -> Mutant:
    return Mutant(name, "dispatch/tally.py", old, new, is_rare, first)


def prepare(mutant: Mutant | None, into: Path) -> None:
    """Copy what the schedules need, and break it."""
    for source in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        target = into / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    if mutant:
        broken = into / mutant.file
        broken.write_text(broken.read_text().replace(mutant.old, mutant.new))


def outcome_of(mutant: Mutant | None, seeds: int = SEEDS) -> str:
    """What is found; empty if nothing is."""
    with tempfile.TemporaryDirectory() as directory:
        prepare(mutant, Path(directory))
        command = [sys.executable, "-m", *SCHEDULES, str(seeds)]
        if mutant:
            command += ["--first", str(mutant.first)]
        if mutant and mutant.is_rare:
            command = [sys.executable, "-m", *RULES]
        environment = os.environ | {"PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"nothing ran: {done.stdout}{done.stderr}")
    if mutant and mutant.is_rare:
        return done.stdout.strip().rpartition("\n")[2] if done.returncode else ""
    return done.stdout.partition("\n")[0]
