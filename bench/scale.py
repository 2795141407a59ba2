"""How much is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

T = TypeVar("T")

USERS: Final = 1_000
PARTITIONS: Final = 3
#: Attempts at once of the worker, and requests at once of what it is compared with.
CONCURRENCY: Final = 64
#: Events in a body -> connections of the load client, each with one request at a time.
BODIES: Final = {1: 64, 10: 64, 100: 16}


@dataclass(frozen=True, slots=True)
class Scale:
    rounds: int
    warm_s: float
    produce_s: float
    """Of one round."""
    growth_events: tuple[int, int]
    """After which ingest's memory is looked at; whole bodies of 100."""
    drain_events: int
    """The first tenth is not measured."""
    drain_rounds: int
    http_events: int
    latency_s: float
    """Of all rounds together."""
    latency_rate: float
    """Events a second at most for the figure that runs of different machines share."""
    steady_s: float
    """Of one round of healthy users' events at a rate that leaves room."""
    steady_rate: float
    burst: int
    """Healthy users' events sent at once, in one round."""
    depths: tuple[int, ...]
    """Events of one stuck user."""
    outage_s: float
    """For which a destination is down."""
    outage_rate: float
    """Events a second meanwhile."""
    replay_events: int
    """That are kept and delivered once more, in so many turns with a quiet time before each."""
    replay_turns: int
    replay_quiet_s: float
    replay_slack_s: float
    """How much longer one takes than its rate says: it reads a minute around its window."""
    replay_rate: float
    """Events a second that are replayed."""
    slow_s: float
    """After which slow users are answered."""
    known_users: tuple[int, ...]
    """Users that had events before; nearly all are idle."""
    held_up_lanes: tuple[int, ...]
    """Users whose first event failed and waits for its next attempt."""
    lane_events: tuple[int, ...]
    """Events of one user that are held."""
    cost_events: int
    """That the scheduler's cost is measured with."""


FULL: Final = Scale(
    rounds=3,
    warm_s=0.7,
    produce_s=3.0,
    growth_events=(200_000, 2_000_000),
    drain_events=400_000,
    drain_rounds=5,
    http_events=60_000,
    latency_s=10.0,
    latency_rate=500.0,
    steady_s=5.0,
    steady_rate=500.0,
    burst=20_000,
    depths=(1_000, 10_000, 100_000, 500_000),
    outage_s=120.0,
    outage_rate=1_000.0,
    replay_events=48_000,
    replay_turns=4,
    replay_quiet_s=30.0,
    replay_slack_s=60.0,
    replay_rate=200.0,
    slow_s=30.0,
    known_users=(100, 1_000, 10_000, 100_000, 1_000_000),
    held_up_lanes=(100, 1_000, 10_000, 100_000, 1_000_000),
    lane_events=(1, 10, 100, 1_000, 10_000, 100_000),
    cost_events=100_000,
)
#: Shows that everything runs; its figures mean nothing.
QUICK: Final = Scale(
    rounds=1,
    warm_s=0.5,
    produce_s=1.0,
    growth_events=(2_000, 6_000),
    drain_events=2_000,
    drain_rounds=1,
    http_events=500,
    latency_s=0.6,
    latency_rate=50.0,
    steady_s=0.6,
    steady_rate=50.0,
    burst=500,
    depths=(100, 1_000),
    outage_s=3.0,
    outage_rate=200.0,
    replay_events=500,
    replay_turns=2,
    replay_quiet_s=1.0,
    replay_slack_s=6.0,
    replay_rate=200.0,
    slow_s=2.0,
    known_users=(100, 100_000),
    held_up_lanes=(100, 1_000),
    lane_events=(1, 1_000),
    cost_events=20_000,
)


def interleaved(arms: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Each round's number with each of its arms, from another arm on in each round.

    So a machine that gets slower meanwhile makes all alike slower.
    """
    for number in range(rounds):
        start = number % len(arms)
        for arm in (*arms[start:], *arms[:start]):
            yield number + 1, arm
