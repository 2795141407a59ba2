"""Deliberate breakages of the lanes' rules, each found by the schedules or by a scenario.

`python -m tests.unit.mutants` tries them all and says how each is found, and whose search should
begin elsewhere since the rules changed: a search of thousands of schedules takes half a minute.
"""

from __future__ import annotations

import os
import re
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
from tests.unit.mutant import Mutant, outcome_of

MUTANTS: Final = (
    *mutants_of_order.MUTANTS,
    *mutants_of_counts.MUTANTS,
    *mutants_of_turns.MUTANTS,
    *mutants_of_leave.MUTANTS,
    *mutants_of_passing.MUTANTS,
)


#: After so many schedules it is worth the while to write down the seed.
SEARCHED_FOR_LONG: Final = 50


def outcomes() -> Iterator[tuple[Mutant, str]]:
    """What becomes of each; two or so at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(MUTANTS, pool.map(outcome_of, MUTANTS), strict=True)


def seed_to_write_down(mutant: Mutant, found: str) -> int | None:
    """Where its search had better begin; `None` if it begins well, or has none."""
    told = re.match(r"seed (\d+):", found)
    seed = int(told[1]) if told else 0
    return seed if seed - mutant.first > SEARCHED_FOR_LONG else None


if __name__ == "__main__":
    for tried, said in outcomes():
        seed = seed_to_write_down(tried, said)
        hint = f" (begin there: first={seed})" if seed else ""
        print(f"{tried.name}: {said or 'SURVIVES'}{hint}", flush=True)  # noqa: T201
