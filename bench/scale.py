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
    drain_events: int
    http_events: int
    latency_s: float
    """Of all rounds together."""
    latency_rate: float
    """Events a second at most for the figure that runs of different machines share."""


FULL: Final = Scale(
    rounds=3,
    warm_s=0.7,
    produce_s=3.0,
    drain_events=100_000,
    http_events=20_000,
    latency_s=10.0,
    latency_rate=500.0,
)
#: Shows that everything runs; its figures mean nothing.
QUICK: Final = Scale(
    rounds=1,
    warm_s=0.5,
    produce_s=1.0,
    drain_events=2_000,
    http_events=500,
    latency_s=0.6,
    latency_rate=50.0,
)


def interleaved(arms: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Each round's number with each of its arms, from another arm on in each round.

    So a machine that gets slower meanwhile makes all alike slower.
    """
    for number in range(rounds):
        start = number % len(arms)
        for arm in (*arms[start:], *arms[:start]):
            yield number + 1, arm
