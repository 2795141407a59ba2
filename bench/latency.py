"""From just before a POST to its arrival at the webhook's receiver, at rates that leave room.

The schedule is open-loop: an event is posted at its moment, however slow those before it are, and
its time runs from there. Beside it the broker's part of that way alone, at the same rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.figures import Figure, percentile
from bench.parts import paced, receiver, relay
from bench.processes import Keylane, LivingPart, run_part
from bench.scale import CONCURRENCY, PARTITIONS, USERS
from bench.stage import HOST, Stage

SECTION: Final = "latency"
YARDSTICK: Final = "bare send to receive"
_CONNECTIONS: Final = 256
_ARRIVED_WITHIN_S: Final = 30.0
#: For 2 s after a worker connected the first event of each user waits 0.1 s for one before it; what
#: is measured is the time after that.
_FRESH_S: Final = 3.0


@dataclass(slots=True)
class Times:
    """Milliseconds of each event, of all rounds together."""

    delivered: list[float] = field(default_factory=list)
    delivered_since_due: list[float] = field(default_factory=list)
    """Counts what the load client was late, too."""
    answered: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


def rates_to_measure(half_load: float, at_most: float) -> list[float]:
    """The rate that machines can be compared at, unless it is too much here; and half load."""
    return [at_most, half_load] if half_load > at_most else [half_load]


def milliseconds(since: Sequence[float], until: Sequence[float], warm: int) -> list[float]:
    """The time of each event but the first `warm` ones."""
    return [(end - begin) * 1000 for begin, end in zip(since, until, strict=True)][warm:]


class Latency:
    def __init__(self, stage: Stage, target: LivingPart, url: str, rates: Sequence[float]) -> None:
        self._stage = stage
        self._target = target
        self._url = url
        self._times = {rate: Times() for rate in rates}
        self._first = 0

    def run(self) -> list[Figure]:
        topic, bare_topic = self._stage.topic("latency"), self._stage.topic("relay")
        name = self._stage.name("latency")
        options = ("--concurrency", str(CONCURRENCY))
        with (
            self._stage.ingest(topic) as ingest,
            self._stage.dispatch(topic, name, self._url, *options) as worker,
        ):
            ingest.wait_ready()
            worker.wait_ready()
            self._warm_up(ingest)
            self._measure_all(ingest, bare_topic)
        return [figure for rate in self._times for figure in self._figures(rate)]

    def _warm_up(self, ingest: Keylane) -> None:
        self._stage.tell(f"{SECTION}: {_FRESH_S:g} s at the lowest rate, unmeasured")
        rate = min(self._times)
        self._post(ingest, rate, max(1, round(rate * _FRESH_S)))

    def _measure_all(self, ingest: Keylane, bare_topic: str) -> None:
        def measure(rate: float) -> None:
            self._measure(ingest, rate)

        def measure_bare(rate: float) -> None:
            self._measure_bare(bare_topic, rate)

        arms: list[tuple[str, Callable[[float], None], float]] = []
        for rate in self._times:
            arms += [("keylane", measure, rate), (YARDSTICK, measure_bare, rate)]
        for number, (what, arm, rate) in self._stage.rounds(arms):
            self._stage.tell(f"{SECTION} at {rate:.0f}/s, round {number}: {what}")
            arm(rate)

    def _counts(self, rate: float) -> tuple[int, int]:
        """How many events of a round only warm up, and how many there are."""
        scale = self._stage.scale
        warm = round(rate * scale.warm_s)
        return warm, warm + max(1, round(rate * scale.latency_s / scale.rounds))

    def _measure(self, ingest: Keylane, rate: float) -> None:
        warm, count = self._counts(rate)
        result, arrived = self._post(ingest, rate, count)
        times = self._times[rate]
        times.delivered += milliseconds(result.sent, arrived, warm)
        times.delivered_since_due += milliseconds(result.due, arrived, warm)
        times.answered += milliseconds(result.sent, result.answered, warm)
        times.late += milliseconds(result.due, result.sent, warm)

    def _post(self, ingest: Keylane, rate: float, count: int) -> tuple[paced.Result, list[float]]:
        """Post so many events; returns what the client tells, and when each event arrived."""
        address = urlsplit(ingest.url())
        options = paced.Options(
            address.hostname or "",
            address.port or 0,
            rate,
            count,
            self._first,
            USERS,
            _CONNECTIONS,
        )
        self._first += count
        self._target.tell(receiver.Expect(count))
        result = run_part(paced, options, paced.Result)
        self._target.hear(receiver.Arrived, _ARRIVED_WITHIN_S)
        return result, self._arrived(options)

    def _arrived(self, options: paced.Options) -> list[float]:
        self._target.tell(receiver.Take())
        taken = self._target.hear(receiver.Taken)
        moments = dict(zip(taken.numbers, taken.moments, strict=True))
        wanted = range(options.first, options.first + options.count)
        if len(taken.numbers) != options.count or not moments.keys() >= set(wanted):
            raise BenchError(f"{len(moments)} of {options.count} events arrived, or some twice")
        return [moments[number] for number in wanted]

    def _measure_bare(self, topic: str, rate: float) -> None:
        warm, count = self._counts(rate)
        options = relay.Options(
            self._stage.service_url,
            topic,
            self._stage.name("bare"),
            PARTITIONS,
            USERS,
            rate,
            count,
        )
        result = run_part(relay, options, relay.Result)
        self._times[rate].bare += milliseconds(result.sent, result.received, warm)

    def _figures(self, rate: float) -> list[Figure]:
        times, at = self._times[rate], f"at {rate:.0f}/s"
        delivered = [
            Figure(
                SECTION,
                f"POST to delivery, p{percent} {at}",
                "ms",
                [percentile(times.delivered, percent)],
                YARDSTICK,
                [percentile(times.bare, percent)],
            )
            for percent in (50, 95, 99)
        ]
        return [
            *delivered,
            _plain(f"POST to delivery since due, p99 {at}", times.delivered_since_due, 99),
            _plain(f"POST to its answer, p50 {at}", times.answered, 50),
            _plain(f"POST to its answer, p99 {at}", times.answered, 99),
            _plain(f"load client behind schedule, p99 {at}", times.late, 99),
        ]


def _plain(name: str, values: Sequence[float], percent: float) -> Figure:
    return Figure(SECTION, name, "ms", [percentile(values, percent)])


def receiver_url(port: int) -> str:
    return f"http://{HOST}:{port}/events"
