"""What a worker counts, and how Prometheus reads it.

Plain integers on the way of an event; they become metrics only when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from dispatch.breaker import BreakerState
from dispatch.once.book import OnceCounts
from dispatch.outcome import (
    Delivered,
    Disabled,
    Forbidden,
    Malformed,
    Outcome,
    Refused,
    Unavailable,
)
from dispatch.pace import PaceFigures
from dispatch.statistics import Statistics
from keylane.controlrecord import Standing
from keylane.telemetry import new_registry

#: From a webhook in the same rack to one that uses its timeout up.
_ATTEMPT_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)


#: What an attempt came to, as a label.
OUTCOME_NAMES: Final[dict[type[Outcome], str]] = {
    Delivered: "delivered",
    Unavailable: "unavailable",
    Refused: "refused",
    Malformed: "malformed",
    Forbidden: "forbidden",
    Disabled: "disabled",
}


@dataclass(slots=True)
class Counts:
    """Totals since this worker started."""

    received: int = 0
    acknowledged: int = 0
    redeliveries_asked: int = 0
    connections_made: int = 0
    connections_lost: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    """By outcome: delivered, unavailable, refused, malformed, forbidden, disabled."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """By reason."""
    dead_letters_unconfirmed: int = 0
    attempts_spared: int = 0


class WorkerMetrics:
    """The registry behind one worker's `/metrics`."""

    def __init__(
        self,
        destination: str,
        statistics: Callable[[], Statistics],
        figures: Callable[[], PaceFigures],
        users: Callable[[], Mapping[str, int]] = lambda: dict.fromkeys(Standing, 0),
    ) -> None:
        self.counts = Counts()
        self._destination = destination
        self.registry = new_registry()
        collector = _WorkerCollector(destination, self.counts, statistics, figures, users)
        self.registry.register(collector)
        attempts = Histogram(
            "keylane_attempt_duration_seconds",
            "Time of one attempt at a destination that is waited for.",
            ["destination"],
            buckets=_ATTEMPT_SECONDS,
            registry=self.registry,
        )
        self.attempt_seconds = attempts.labels(destination)

    def add_once(self, counts: OnceCounts) -> None:
        """Also tell what the store of deliveries came to."""
        self.registry.register(_OnceCollector(self._destination, counts))


class _OnceCollector(Collector):
    def __init__(self, destination: str, counts: OnceCounts) -> None:
        self._destination = destination
        self._counts = counts

    @override
    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        for name, help_text, value in (
            ("skipped", "Deliveries left out because they had been made.", counts.skipped),
            ("uncertain", "Deliveries made though one may have been made.", counts.uncertain),
            ("unasked", "Events of which the store could not be asked.", counts.unasked),
            ("unrecorded", "Deliveries that the store did not confirm.", counts.unrecorded),
        ):
            yield _counter(self._destination, f"once_{name}", help_text, value)


class _WorkerCollector(Collector):
    def __init__(
        self,
        destination: str,
        counts: Counts,
        statistics: Callable[[], Statistics],
        figures: Callable[[], PaceFigures],
        users: Callable[[], Mapping[str, int]],
    ) -> None:
        self._users = users
        self._destination = destination
        self._counts = counts
        self._statistics = statistics
        self._figures = figures

    @override
    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield from self._gauges(self._statistics())
        yield from self._pace(self._figures())
        yield self._by_state(
            "users", "Users that stand otherwise than usual, at all workers.", self._users()
        )

    def _counters(self) -> Iterator[Metric]:
        counts, statistics = self._counts, self._statistics()
        yield self._counter("received", "Messages that came from the broker.", counts.received)
        yield self._counter(
            "acknowledged", "Messages acknowledged to the broker.", counts.acknowledged
        )
        yield self._counter(
            "redeliveries_asked",
            "Messages negatively acknowledged to the broker.",
            counts.redeliveries_asked,
        )
        yield self._counter(
            "connections_made",
            "Connections of partitions, the first ones and reconnects.",
            counts.connections_made,
        )
        yield self._counter(
            "connections_lost", "Losses of a partition's connection.", counts.connections_lost
        )
        yield self._counter(
            "dead_letters_unconfirmed",
            "Publishes to the dead-letter topic without a receipt.",
            counts.dead_letters_unconfirmed,
        )
        yield self._counter(
            "attempts_spared",
            "Attempts that were not counted, because the destination was down or disabled.",
            counts.attempts_spared,
        )
        yield self._counter(
            "late_arrivals",
            "Events that arrived after a later one of their user was started; must stay 0.",
            statistics.late,
        )
        yield self._counter(
            "given_back",
            "Lanes given back because their key moved to another worker.",
            statistics.given_back,
        )
        yield self._counter(
            "payloads_fetched",
            "Events of deep lanes whose payload was asked for again.",
            statistics.fetched,
        )
        yield self._counter(
            "gate_closed_seconds",
            "Time for which the receive gate was closed.",
            statistics.gate_closed_s,
        )
        yield self._labelled(
            "attempts", "Attempts by what they came to.", "outcome", counts.attempts
        )
        yield self._labelled(
            "dead_letters", "Events confirmed dead by reason.", "reason", counts.dead_letters
        )

    def _gauges(self, statistics: Statistics) -> Iterator[Metric]:
        yield self._by_state(
            "lanes", "Users with unfinished events here by what they wait for.", _lanes(statistics)
        )
        yield self._gauge("full_lanes", "Users at max_lane_events.", statistics.full)
        yield self._gauge("receiving", "1 while the receive gate is open.", statistics.is_receiving)
        yield self._by_state("events", "Unfinished events here by state.", statistics.events)
        yield self._gauge(
            "slow_attempts", "Attempts that run for slow users.", statistics.slow_running
        )
        yield self._gauge(
            "payload_bytes",
            "Payloads that wait in lanes, with 1,000 bytes for each message.",
            statistics.payload_bytes,
        )
        yield self._gauge(
            "oldest_head_seconds",
            "For how long the user that waits longest has waited for one event.",
            statistics.oldest_head_s,
        )

    def _pace(self, figures: PaceFigures) -> Iterator[Metric]:
        yield self._gauge(
            "concurrency", "Attempts at once that the destination is given.", figures.concurrency
        )
        yield self._counter(
            "concurrency_cuts", "Times that overload halved the concurrency.", figures.cuts
        )
        yield self._by_state(
            "breaker",
            "1 for the state that the breaker is in.",
            {state.value: int(state is figures.breaker) for state in BreakerState},
        )
        yield self._counter("breaker_opened", "Times that the breaker opened.", figures.opened)
        yield self._counter("probes", "Attempts made to see whether it is back.", figures.probes)
        yield self._gauge(
            "disabled", "1 while the destination wants nothing more.", figures.is_disabled
        )
        yield self._gauge("paused", "1 while a person wants no attempts.", figures.is_paused)

    def _by_state(self, name: str, help_text: str, values: Mapping[str, int]) -> Metric:
        labels = ["destination", "state"]
        family = GaugeMetricFamily(f"keylane_{name}", help_text, labels=labels)
        for state, value in values.items():
            family.add_metric([self._destination, state], value)
        return family

    def _counter(self, name: str, help_text: str, value: float) -> Metric:
        return _counter(self._destination, name, help_text, value)

    def _labelled(self, name: str, help_text: str, label: str, values: Counter[str]) -> Metric:
        family = CounterMetricFamily(f"keylane_{name}", help_text, labels=["destination", label])
        for key, value in sorted(values.items()):
            family.add_metric([self._destination, key], value)
        return family

    def _gauge(self, name: str, help_text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"keylane_{name}", help_text, labels=["destination"])
        family.add_metric([self._destination], value)
        return family


def _counter(destination: str, name: str, help_text: str, value: float) -> Metric:
    family = CounterMetricFamily(f"keylane_{name}", help_text, labels=["destination"])
    family.add_metric([destination], value)
    return family


def _lanes(statistics: Statistics) -> dict[str, int]:
    """Lanes by what their head does; `ready` are all that wait for a slot or for a moment."""
    events = statistics.events
    busy = {state: events[state] for state in ("in_flight", "backoff", "dead_lettering")}
    ready = statistics.lanes - statistics.away - sum(busy.values())
    return {"ready": ready, "away": statistics.away, **busy}
