"""How destinations stand: what the broker counts, and what their workers say of themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

#: How bad a breaker's state is; several workers have that of the worst.
_WORST_FIRST: Final = ("open", "half_open", "closed")
#: What workers count that is added up.
TOTALS: Final = ("lanes", "ready", "held", "in_flight", "backoff", "dead_lettering", "full")


class Condition(StrEnum):
    """Whether a destination gets events; the first that applies."""

    PAUSED = "paused"
    """By a person: no attempt starts."""
    DISABLED = "disabled"
    """By itself, with a 410 for example: no attempt starts."""
    UNATTENDED = "unattended"
    """No worker runs."""
    SILENT = "silent"
    """Workers run, and none answers."""
    BREAKER_OPEN = "breaker_open"
    """Everything failed; single attempts see whether it is back."""
    LIVE_PAUSED = "live_paused"
    """Only events that are delivered once more are attempted."""
    DELIVERING = "delivering"


@dataclass(frozen=True, slots=True)
class PartitionShare:
    """What a worker has of one partition; -1 is what is delivered once more.

    `hash_ranges` are those of its keys, both ends included, and `share` is the part of all that
    they make up.
    """

    partition: int
    unacknowledged: int
    connected_since: str
    hash_ranges: list[list[int]]
    share: float


@dataclass(frozen=True, slots=True)
class WorkerStanding:
    """`report` is what the worker said of itself; None if it did not answer in time."""

    name: str
    partitions: list[PartitionShare]
    report: dict[str, Any] | None = None

    @property
    def unacknowledged(self) -> int:
        return sum(part.unacknowledged for part in self.partitions)

    def share(self, partitions: int) -> float:
        """Its part of the live partitions' hash space."""
        return sum(p.share for p in self.partitions if p.partition >= 0) / max(1, partitions)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the broker keeps for a destination, in messages as it counts them (batches are one).

    `dead_letters` is None where nothing keeps dead letters: their topic has no subscription.
    """

    by_partition: list[dict[str, int]]
    redrive: int
    dead_letters: int | None

    @property
    def live(self) -> int:
        return sum(one["backlog"] for one in self.by_partition)


@dataclass(frozen=True, slots=True)
class Standing:
    """One destination. `paused` and `disabled` are what was said of it, None for nothing."""

    name: str
    backlog: Backlog
    workers: list[WorkerStanding]
    paused: dict[str, Any] | None = None
    disabled: dict[str, Any] | None = None
    users: dict[str, int] = field(default_factory=lambda: {"held": 0, "waiting": 0})

    @property
    def condition(self) -> Condition:
        live_only = bool(self.paused and self.paused["live_only"])
        reports = self.reports
        applies = {
            Condition.PAUSED: self.paused is not None and not live_only,
            Condition.DISABLED: self.disabled is not None
            or any(report["disabled_because"] is not None for report in reports),
            Condition.UNATTENDED: not self.workers,
            Condition.SILENT: not reports,
            Condition.BREAKER_OPEN: self.breaker in _WORST_FIRST[:2],
            Condition.LIVE_PAUSED: live_only,
        }
        return next((one for one, holds in applies.items() if holds), Condition.DELIVERING)

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [worker.report for worker in self.workers if worker.report is not None]

    @property
    def breaker(self) -> str | None:
        """The worst among the workers; None if none has said it."""
        states = {report["breaker"] for report in self.reports}
        return next((state for state in _WORST_FIRST if state in states), None)

    def total(self, name: str) -> int:
        """Of all workers that answered."""
        return sum(int(report[name]) for report in self.reports)

    @property
    def oldest_head_s(self) -> float:
        return max((report["oldest_head_s"] for report in self.reports), default=0.0)

    @property
    def silent(self) -> list[str]:
        """Workers that the broker lists and that did not answer."""
        return [worker.name for worker in self.workers if worker.report is None]

    def as_dict(self) -> dict[str, Any]:
        """The documented form (docs/json/status.schema.json)."""
        return {
            "name": self.name,
            "condition": self.condition.value,
            "paused": self.paused,
            "disabled": self.disabled,
            "backlog": self.backlog.live,
            "redrive_backlog": self.backlog.redrive,
            "dead_letters": self.backlog.dead_letters,
            "users": self.users,
            **{name: self.total(name) for name in TOTALS},
            "oldest_head_s": self.oldest_head_s,
            "breaker": self.breaker,
            "partitions": self.backlog.by_partition,
            "workers": [self._worker(worker) for worker in self.workers],
        }

    def _worker(self, worker: WorkerStanding) -> dict[str, Any]:
        return {
            "name": worker.name,
            "answers": worker.report is not None,
            "share": round(worker.share(len(self.backlog.by_partition)), 4),
            "unacknowledged": worker.unacknowledged,
            "partitions": [asdict(part) for part in worker.partitions],
            "report": worker.report,
        }


def workers_in(
    statistics: dict[int, dict[str, Any] | None], reports: dict[str, dict[str, Any]]
) -> list[WorkerStanding]:
    """The consumers of one subscription by name, from its statistics by partition."""
    parts: dict[str, list[PartitionShare]] = {}
    for number, found in statistics.items():
        consumers = (found or {}).get("consumers", ())
        sizes = {str(one["consumerName"]): _size(ranges_of(one)) for one in consumers}
        whole = sum(sizes.values())
        for one in consumers:
            name = str(one["consumerName"])
            part = PartitionShare(
                partition=number,
                unacknowledged=int(one.get("unackedMessages", 0)),
                connected_since=str(one.get("connectedSince", "")),
                hash_ranges=ranges_of(one),
                share=round(sizes[name] / whole, 4) if whole else 0.0,
            )
            parts.setdefault(name, []).append(part)
    return [WorkerStanding(name, parts[name], reports.get(name)) for name in sorted(parts)]


def ranges_of(consumer: dict[str, Any]) -> list[list[int]]:
    """Hash ranges as numbers, which older brokers give as text: `[0, 100]`."""
    if arrays := consumer.get("keyHashRangeArrays"):
        return [[int(first), int(last)] for first, last in arrays]
    texts = consumer.get("keyHashRanges") or ()
    return [[int(end) for end in text.strip("[] ").split(",")] for text in texts]


def _size(ranges: list[list[int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
