"""The events of healthy users: sent to the topic, delivered over HTTP, each one timed.

From just before its send to its arrival at the receiver. What is not there when the patience ends
counts with the time that it took so far: the figures are then too good rather than missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.errors import BenchError
from bench.figures import per, percentile
from bench.parts import receiver, sender
from bench.processes import LivingPart, run_part
from bench.scale import PARTITIONS
from bench.stage import Stage
from bench.waiting import counted

_POLL_S: Final = 0.05
#: Nothing that gets anywhere takes longer.
PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class Served:
    """What became of the events of one way of sending, round by round."""

    rates: list[float] = field(default_factory=list)
    """Events a second, from the first send to the last arrival."""
    latencies_ms: list[float] = field(default_factory=list)
    """Of all rounds together."""
    sent: int = 0
    arrived: int = 0

    def percentile_ms(self, percent: float) -> float:
        return percentile(self.latencies_ms, percent)

    @property
    def arrived_percent(self) -> float:
        return per(100 * self.arrived, self.sent)

    def note(self, sent: Sequence[float], arrived: dict[int, float], until: float) -> None:
        """A round: when each event was sent, when those arrived that did, by index."""
        ends = [arrived.get(index, until) for index in range(len(sent))]
        self.rates.append(per(len(arrived), max(ends) - sent[0]))
        self.latencies_ms += [(end - begin) * 1000 for begin, end in zip(sent, ends, strict=True)]
        self.sent += len(sent)
        self.arrived += len(arrived)


class Crowd:
    """So many healthy users on one topic."""

    def __init__(self, stage: Stage, target: LivingPart, topic: str, users: int) -> None:
        self._stage = stage
        self._target = target
        self._topic = topic
        self._users = users
        self._first = 0

    def send(
        self, served: Served, count: int, rate: float = 0.0, patience_s: float = PATIENCE_S
    ) -> None:
        """Send so many events, at a rate or as fast as they are taken, and wait for them."""
        first, self._first = self._first, self._first + count
        self._target.tell(receiver.Expect(0, first=first))
        options = sender.Options(
            self._stage.service_url, self._topic, PARTITIONS, self._users, first, count, rate
        )
        result = run_part(sender, options, sender.Result)
        until = self._wait(count, result.sent[-1] + patience_s)
        self._target.tell(receiver.Take())
        taken = self._target.hear(receiver.Taken)
        arrived = {
            number - first: at
            for number, at in zip(taken.numbers, taken.moments, strict=True)
            if at <= until
        }
        if len(taken.numbers) > count or any(not 0 <= index < count for index in arrived):
            raise BenchError(f"{len(taken.numbers)} of {count} events arrived: some twice")
        served.note(result.sent, arrived, until)

    def _wait(self, count: int, deadline: float) -> float:
        """Until all have arrived or the deadline; returns when that was."""
        while counted(self._target).arrived < count and (now := time.monotonic()) < deadline:
            time.sleep(min(_POLL_S, deadline - now))
        return time.monotonic()
