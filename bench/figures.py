"""From what was counted to figures: rates, percentiles, and figures beside their yardsticks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from bench.errors import BenchError

UNKNOWN: Final = math.nan


def per(amount: float, count: float) -> float:
    """`amount / count`; unknown if there is nothing to divide by."""
    return amount / count if count else UNKNOWN


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; never one between two."""
    if not values:
        return UNKNOWN
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(0, rank - 1)]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker had counted at one moment."""

    at: float
    received: int
    acknowledged: int


def drain_span(samples: Sequence[Sample], total: int) -> tuple[float, float]:
    """When the first event was received and the last one acknowledged.

    Each lies between two samples. The line through the two nearest samples within the run is
    followed outwards, but never past the sample on the other side. Where there are no two, the
    span is from the last sample before to the first one after: too long rather than too short.
    """
    first = next((i for i, s in enumerate(samples) if s.received > 0), None)
    last = next((i for i, s in enumerate(samples) if s.acknowledged >= total), None)
    if first is None or last is None:
        raise BenchError(f"only {max((s.acknowledged for s in samples), default=0)} of {total}")
    return _start(samples, first, last), _end(samples, first, last, total)


def _start(samples: Sequence[Sample], first: int, last: int) -> float:
    inside = samples[first]
    before = samples[first - 1].at if first else -math.inf
    if last - first < 2 and first:
        return before
    later = samples[min(first + 1, last)]
    rate = per(later.received - inside.received, later.at - inside.at)
    back = inside.received / rate if rate > 0 else 0.0
    return max(before, inside.at - back)


def _end(samples: Sequence[Sample], first: int, last: int, total: int) -> float:
    after = samples[last].at
    if last - first < 2:
        return after
    earlier, inside = samples[last - 2 : last]
    rate = per(inside.acknowledged - earlier.acknowledged, inside.at - earlier.at)
    if not rate > 0:
        return after
    return min(after, inside.at + (total - inside.acknowledged) / rate)


def next_pause_s(rate: float, left: int) -> float:
    """How long to wait for the next sample: 0.5 s, less when the end is near.

    Each costs the worker some milliseconds.
    """
    if rate <= 0:
        return 0.01
    return min(0.5, max(0.005, left / rate / 2))


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, beside that of the yardstick's rounds."""

    section: str
    name: str
    unit: str
    rounds: Sequence[float]
    yardstick: str = ""
    yardstick_rounds: Sequence[float] = ()
    is_more_better: bool = False
    at_least: float | None = None
    """The ratio that is accepted on an idle machine."""
    at_most: float | None = None
    """The same where less is better."""
    value_at_most: float | None = None
    """The value itself that is accepted."""
    details: Mapping[str, float] = field(default_factory=dict)
    """What the value is made of; told in the JSON only."""

    @property
    def value(self) -> float:
        return median(self.rounds)

    @property
    def yardstick_value(self) -> float:
        return median(self.yardstick_rounds) if self.yardstick_rounds else UNKNOWN

    @property
    def ratio(self) -> float:
        return per(self.value, self.yardstick_value)

    @property
    def is_accepted(self) -> bool:
        return (
            (self.at_least is None or self.ratio >= self.at_least)
            and (self.at_most is None or self.ratio <= self.at_most)
            and (self.value_at_most is None or self.value <= self.value_at_most)
        )
