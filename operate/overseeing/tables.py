"""Status and lanes as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from operate.overseeing.standing import Condition, Standing, WorkerStanding

#: Hash ranges that are written out; a ring of a hundred points a worker has hundreds.
_RANGES_SHOWN: Final = 2
#: Characters of an error in a table.
_ERROR_SHOWN: Final = 60
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400

_SAID: Final = {
    Condition.UNATTENDED: "{name} has no worker. Start one: keylane dispatch {name}",
    Condition.PAUSED: "{name} is paused since {paused}. Let it go on: keylane resume {name}",
    Condition.DISABLED: "{name} has disabled itself ({because}). Mend it, then: "
    "keylane resume {name}",
    Condition.LIVE_PAUSED: "{name} gets only events that are delivered once more, since {paused}. "
    "Let live ones go on: keylane resume {name}",
    Condition.SILENT: "No worker of {name} answers. Look at their logs, and at their /readyz.",
}


def status(standings: Sequence[Standing]) -> RenderableType:
    """Destinations, their workers, and what is to be said of them."""
    if not standings:
        return "There is no destination. Make one: keylane topic setup --destination NAME"
    parts: list[RenderableType] = [_destinations(standings)]
    if any(one.workers for one in standings):
        parts.append(_workers(standings))
    return Group(*parts, *_sentences(standings))


def _destinations(standings: Sequence[Standing]) -> Table:
    table = _table(
        *("destination", "condition", "backlog", "once\nmore", "dead\nletters", "ready", "held"),
        *("in\nflight", "oldest\nhead"),
    )
    for one in standings:
        table.add_row(
            one.name,
            one.condition.replace("_", " "),
            f"{one.backlog.live:,}",
            f"{one.backlog.redrive:,}",
            "not kept" if one.backlog.dead_letters is None else f"{one.backlog.dead_letters:,}",
            f"{one.total('ready'):,}",
            f"{one.total('held'):,}",
            f"{one.total('in_flight'):,}",
            spoken(one.oldest_head_s) if one.oldest_head_s else "",
        )
    return table


def _workers(standings: Sequence[Standing]) -> Table:
    # Of one destination its name needs no column.
    whose = ["destination"] if len(standings) > 1 else []
    table = _table(
        *whose,
        *("worker", "parti-\ntions", "hash\nranges", "share", "un-\nacked"),
        *("ready", "in\nflight", "oldest\nhead", "breaker"),
    )
    for one in standings:
        for worker in one.workers:
            name = [one.name] if whose else []
            table.add_row(*name, worker.name, *_of_broker(one, worker), *_of_itself(worker))
    return table


def _of_broker(standing: Standing, worker: WorkerStanding) -> Iterator[str]:
    live = [part for part in worker.partitions if part.partition >= 0]
    has_all = len(live) == len(standing.backlog.by_partition)
    yield "all" if has_all else ", ".join(str(part.partition) for part in live)
    yield ranges_spoken([part.hash_ranges for part in live])
    yield f"{worker.share(len(standing.backlog.by_partition)):.0%}"
    yield f"{worker.unacknowledged:,}"


def _of_itself(worker: WorkerStanding) -> Iterator[str]:
    report = worker.report
    if report is None:
        yield "no answer"
        return
    yield f"{report['ready']:,}"
    yield f"{report['in_flight']:,}"
    yield spoken(report["oldest_head_s"]) if report["oldest_head_s"] else ""
    yield str(report["breaker"]).replace("_", " ")


def ranges_spoken(by_partition: Sequence[list[list[int]]]) -> str:
    """The ranges themselves where they are few and alike everywhere, else how many there are."""
    if by_partition and all(one == by_partition[0] for one in by_partition):
        ranges = by_partition[0]
        if len(ranges) <= _RANGES_SHOWN:
            return ", ".join(f"{first}-{last}" for first, last in ranges)
        return f"{len(ranges):,}"
    counts = dict.fromkeys(f"{len(one):,}" for one in by_partition)
    return ", ".join(counts)


def _sentences(standings: Sequence[Standing]) -> Iterator[str]:
    for one in standings:
        if one.condition in _SAID:
            yield _SAID[one.condition].format(**_facts(one))
        elif one.silent:
            yield f"No answer of {', '.join(one.silent)}: the broker lists them as workers."
        if one.users["held"]:
            yield (
                f"{one.name}: {one.users['held']:,} users are held, their events go to the dead "
                f"letters in order. Deliver them: keylane dlq redrive {one.name} --user U"
            )
        if one.users["waiting"]:
            yield f"{one.name}: {one.users['waiting']:,} users wait for their redriven events."
        if full := [user for report in one.reports for user in report.get("full_users", ())]:
            yield (
                f"{one.name}: at max_lane_events: {', '.join(map(str, full))}. Their workers "
                f"receive nothing more. Look: keylane lanes {one.name}"
            )


def _facts(one: Standing) -> dict[str, str]:
    because = [report["disabled_because"] for report in one.reports if report["disabled_because"]]
    said = [one.disabled["because"]] if one.disabled else because
    return {
        "name": one.name,
        "paused": one.paused["at"] if one.paused else "",
        "because": next(iter(said), ""),
    }


def lanes(rows: Sequence[dict[str, Any]]) -> Table:
    table = _table(
        *("user", "parti-\ntion", "events", "state", "attempt", "id", "position", "head\nfor"),
        *("next\nin", "last\nstatus", "last error", "worker"),
    )
    for row in rows:
        wait_s = row["next_attempt_in_s"]
        error = str(row["last_error"])
        table.add_row(
            row["user"] or "(none)",
            "once more" if row["partition"] < 0 else str(row["partition"]),
            f"{row['events']:,}",
            str(row["state"]).replace("_", " "),
            str(row["attempt"]),
            row["id"] or "(at the broker)",
            row["position"],
            spoken(row["head_s"]),
            "" if wait_s is None else spoken(wait_s),
            "" if row["last_status"] is None else str(row["last_status"]),
            error if len(error) <= _ERROR_SHOWN else f"{error[: _ERROR_SHOWN - 3]}...",
            row["worker"],
        )
    return table


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Two columns without a head: what, and what it is."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for pair in pairs:
        table.add_row(*pair)
    return table


def spoken(seconds: float) -> str:
    """A duration as people say it: `0.3 s`, `12 s`, `4 min`, `2.5 h`, `3.0 d`."""
    if seconds < 10:  # noqa: PLR2004  below, a tenth counts
        return f"{seconds:.1f} s"
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} d"


def _table(*columns: str) -> Table:
    # Close together: twelve columns have to fit.
    return Table(*columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
