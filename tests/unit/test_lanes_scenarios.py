"""Meetings of the lanes' rules that chance comes across too seldom: nothing breaks in any."""

from __future__ import annotations

import pytest

from tests.unit.lanes_scenarios import SCENARIOS, VARIANTS, Scenario, failure_of


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_breaks_when(scenario: Scenario) -> None:
    found = {variant: failure_of(scenario, variant) for variant in range(VARIANTS)}
    assert not any(found.values()), found
