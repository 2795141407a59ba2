"""Everything that ingest measures, in one place and one registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from keylane.telemetry import new_registry

#: Seconds: a broker beside us answers in 1 to 5 ms, a stalled one not before the deadline.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one ingest server. No label ever holds a user, an id or a path."""

    def __init__(self, events_in_flight: Callable[[], int], reasons: Iterable[str]) -> None:
        """`reasons` are all there are, so that each counter exists before it is needed."""
        self.registry = new_registry()
        self._requests = Counter(
            "keylane_ingest_requests",
            "Requests to POST events, by the status of the answer.",
            ["status"],
            registry=self.registry,
        )
        refused = Counter(
            "keylane_ingest_refused_requests",
            "Requests that were not accepted, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.refused = {reason: refused.labels(reason) for reason in reasons}
        self.accepted_events = Counter(
            "keylane_ingest_accepted_events",
            "Events that the broker confirmed within a request that was accepted.",
            registry=self.registry,
        )
        self.duplicate_events = Counter(
            "keylane_ingest_duplicate_events",
            "Events whose id had been accepted before; they were not stored again.",
            registry=self.registry,
        )
        self.schema_violations = Counter(
            "keylane_ingest_schema_violations",
            "Events let through though their payload does not fit its schema.",
            registry=self.registry,
        )
        self.store_failures = Counter(
            "keylane_ingest_idempotency_store_failures",
            "Times that the idempotency store could not be asked.",
            registry=self.registry,
        )
        self.late_receipts = Counter(
            "keylane_ingest_late_receipts",
            "Events confirmed after their request was answered with `unknown`.",
            registry=self.registry,
        )
        self.publish_duration = Histogram(
            "keylane_ingest_publish_duration_seconds",
            "From the first send of a request to the broker's last receipt.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        in_flight = Gauge(
            "keylane_ingest_events_in_flight",
            "Events sent to the broker whose receipt has not come.",
            registry=self.registry,
        )
        in_flight.set_function(events_in_flight)
        # Looked up once: `labels()` costs four times what `inc()` does.
        self._by_status: dict[int, Counter] = {}
        self.count_request(202, 0)

    def count_request(self, status: int, count: int = 1) -> None:
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(str(status))
        counter.inc(count)
