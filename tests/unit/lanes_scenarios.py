"""Meetings of the lanes' rules that chance comes across too seldom, each in many variants.

`python -m tests.unit.lanes_scenarios` plays them all and stops at the first that breaks something;
with names, only those; `--variant N` tells that one step by step.

What has to happen stands in tests/unit/lanes_plots.py; what must not, the judge of the lanes' world
says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias

from tests.unit import lanes_plots as plots
from tests.unit.lanes_ending import check_silence, drain
from tests.unit.lanes_hangs import ending_what_hangs
from tests.unit.lanes_play import Play
from tests.unit.lanes_setting import Gated, Setting

VARIANTS: Final = 10

#: As a worker is by itself, but for a smaller number of attempts at once.
PLAIN: Final = Setting(Gated(concurrency=32, meet_s=0.05, proofs=4), max_attempts=50)
#: A client that fetches one message at a time, and lets it lie for a moment.
TRICKLE: Final = Setting(
    Gated(concurrency=32, meet_s=0.05, proofs=4), max_attempts=50, queue=1, is_eager=False
)
#: The same with a tail that is given back one event at a time.
SLICES: Final = Setting(
    Gated(concurrency=32, meet_s=0.05, proofs=4), max_attempts=50, queue=1, is_eager=False, burst=1
)
#: A destination that answers at once.
PASSING: Final = replace(PLAIN, passes=True)
#: A client that keeps acknowledgements to itself for a moment.
KEEPING: Final = replace(PLAIN, ack_delay_s=0.1)
#: One attempt at a time, and a gate that two users close.
NARROW: Final = Setting(
    Gated(concurrency=1, meet_s=0.05, proofs=4, gate=2, lane_share=1), max_attempts=50
)

Plot: TypeAlias = Callable[[Play], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A plot, and the settings in which it is played in turn."""

    plot: Plot
    settings: tuple[Setting, ...] = (PLAIN,)
    #: Not where an event of the crowd could be overtaken for longer than anybody waits.
    has_crowd: bool = False

    @property
    def name(self) -> str:
        return self.plot.__name__


def play(scenario: Scenario, variant: int, trace: Callable[[str], None] | None = None) -> None:
    """Play it, drain, and let silence follow. Raises if anything breaks."""
    rng = Random(variant)
    setting = scenario.settings[variant % len(scenario.settings)]
    stage = Play(setting, rng, has_crowd=scenario.has_crowd)
    stage.world.trace = trace
    stage.join()
    # Past the time in which everything settles because the connection is new.
    stage.wait(stage.some(2.5, 3.5))
    scenario.plot(stage)
    drain(stage.world)
    check_silence(stage.world)


SCENARIOS: Final = (
    Scenario(plots.a_third_owner_is_told_what_was_never_attempted, has_crowd=True),
    Scenario(plots.the_rest_comes_when_its_predecessor_is_finished, (TRICKLE,)),
    Scenario(plots.an_attempted_event_is_overtaken_at_a_new_worker, has_crowd=True),
    Scenario(plots.a_head_is_tried_again_behind_a_closed_gate_before_its_user_moves, (NARROW,)),
    Scenario(plots.another_worker_fails_what_is_still_attempted_here, has_crowd=True),
    Scenario(plots.what_is_read_again_overtakes_what_a_dead_worker_held, (TRICKLE,)),
    Scenario(plots.a_new_event_overtakes_what_a_dead_worker_held),
    Scenario(plots.a_process_stands_still_when_a_new_event_has_overtaken),
    Scenario(plots.a_new_event_overtakes_at_a_worker_that_knew_the_user),
    Scenario(
        plots.a_new_event_overtakes_what_is_given_back_behind_one_that_was_done_here, (KEEPING,)
    ),
    Scenario(plots.an_event_lies_at_the_client_of_a_process_that_stood_still, (PASSING,)),
    Scenario(plots.an_attempt_outlives_its_connection_and_its_event_is_at_another),
    Scenario(plots.heads_stay_away_while_the_clock_gets_coarser),
    Scenario(plots.an_event_comes_back_before_what_a_dead_worker_held, (TRICKLE, SLICES)),
    Scenario(plots.a_tail_comes_back_when_its_head_has_gone_away_again),
    Scenario(plots.an_unknown_predecessor_comes_between_two_proofs),
    Scenario(plots.what_is_condemned_comes_again_with_a_new_connection, has_crowd=True),
    Scenario(plots.what_is_condemned_is_given_to_another_worker, has_crowd=True),
)


def failure_of(scenario: Scenario, variant: int) -> str:
    """What goes wrong with it; empty if nothing does."""
    try:
        play(scenario, variant)
    # Whatever a broken rule makes of the lanes is a finding.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return ""


def failure_or_hang_of(scenario: Scenario, variant: int) -> str:
    """The same for what may never end; only for the main thread of a process of its own."""
    with ending_what_hangs():
        return failure_of(scenario, variant)


def _tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201  what the command is for


def main() -> int:
    """The exit code is 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="play only these")
    parser.add_argument("--variants", type=int, default=VARIANTS)
    parser.add_argument("--variant", type=int, help="tell this one step by step")
    asked = parser.parse_args()
    if unknown := set(asked.names) - {scenario.name for scenario in SCENARIOS}:
        parser.error(f"no such scenarios: {unknown}")
    chosen = [s for s in SCENARIOS if not asked.names or s.name in asked.names]
    if asked.variant is not None:
        for scenario in chosen:
            play(scenario, asked.variant, trace=_tell)
        return 0
    for scenario in chosen:
        for variant in range(asked.variants):
            if error := failure_or_hang_of(scenario, variant):
                _tell(f"{scenario.name}, variant {variant}: {error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
