"""Breakages of what needs no lane: events that pass where something stands in their way."""

from __future__ import annotations

from typing import Final

from tests.unit.mutant import Mutant
from tests.unit.schedules import PASSING


def in_passing(name: str, old: str, new: str, *, scenario: str = "") -> Mutant:
    return Mutant(name, "dispatch/passing.py", old, new, PASSING, scenario)


MUTANTS: Final = (
    in_passing(
        "an event passes those of its user that have a lane",
        "                and key not in lanes\n",
        "",
    ),
    in_passing(
        "an event passes one of its user that has just arrived",
        "            if key in seen:\n",
        "            if False:\n",
    ),
    in_passing(
        "events pass without a connection that is sure",
        "is_settled and partition.is_sure(now, options.freeze_s, options.lease_s)",
        "is_settled",
        scenario="an_event_lies_at_the_client_of_a_process_that_stood_still",
    ),
    in_passing(
        "events pass at a process that stood still",
        "partition.is_sure(now, options.freeze_s,",
        "partition.is_sure(now, 1e9,",
        scenario="an_event_lies_at_the_client_of_a_process_that_stood_still",
    ),
    in_passing(
        "what has passed is forgotten",
        "        partition.finished.put_all([message.position for message in messages], None)\n",
        "",
    ),
    in_passing(
        "what has passed is not acknowledged",
        "        self._commands.acknowledge.setdefault(number, []).extend(messages)\n",
        "",
    ),
)
