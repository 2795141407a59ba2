"""Schedules and scenarios find every breakage of the lanes: what can't fail checks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.unit.lanes_search import AT_ONCE
from tests.unit.mutant import ROOT, SEEDS, Mutant, outcome_of
from tests.unit.mutants import MUTANTS

Outcomes = dict[str, Future[str]]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Outcomes]:
    """All of them."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {mutant.name: pool.submit(outcome_of, mutant) for mutant in MUTANTS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_breaks_is_there_once(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_found_that(mutant: Mutant, outcomes: Outcomes) -> None:
    assert outcomes[mutant.name].result()


@pytest.mark.timeout(600)
def test_the_schedules_find_nothing_in_a_copy_that_is_whole() -> None:
    assert outcome_of(None, SEEDS // 16) == ""
