"""Deliberate breakages of the lanes' rules, each found by the schedules or by a scenario.

`python -m tests.unit.mutants` tries them all and says how each is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.unit import (
    mutants_of_counts,
    mutants_of_leave,
    mutants_of_order,
    mutants_of_passing,
    mutants_of_turns,
)
from tests.unit.mutant import outcome_of

MUTANTS: Final = (
    *mutants_of_order.MUTANTS,
    *mutants_of_counts.MUTANTS,
    *mutants_of_turns.MUTANTS,
    *mutants_of_leave.MUTANTS,
    *mutants_of_passing.MUTANTS,
)


def outcomes() -> Iterator[tuple[str, str]]:
    """What becomes of each, by name; two or so at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(outcome_of, MUTANTS)
        yield from zip((mutant.name for mutant in MUTANTS), found, strict=True)


if __name__ == "__main__":
    for name, found in outcomes():
        print(f"{name}: {found or 'SURVIVES'}", flush=True)  # noqa: T201
