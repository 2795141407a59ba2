"""What is said of a replay: how far it is, what it found, how to go on with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer
from rich import box
from rich.table import Table

from keylane.event import rfc3339
from operate.console import console
from operate.replaying.plan import Count
from operate.replaying.run import Run
from operate.replaying.window import Wanted

_COLUMNS: Final = ("id", "state", "from", "to", "user", "type", "events", "users")


def note(line: str) -> None:
    typer.echo(line, err=True)


def counted(destination: str, wanted: Wanted, count: Count) -> str:
    whose = "" if wanted.user is None else f" of user {wanted.user}"
    what = "" if wanted.type is None else f" of type {wanted.type}"
    return (
        f"{destination}: {count.events:,} events{what}{whose or f' of {count.users:,} users'}, "
        f"published from {rfc3339(wanted.from_ms)} on and before {rfc3339(wanted.to_ms)}."
    )


def remarks(count: Count) -> Iterator[str]:
    """What whoever replays should know of the count."""
    if count.kept_from_ms is not None:
        yield (
            f"Not every partition has kept anything from before {rfc3339(count.kept_from_ms)}: "
            "what the window had there, if anything, is gone."
        )
    if count.without_key:
        yield f"{count.without_key:,} of them have no key: each is delivered on its own, unordered."
    if count.unreadable:
        yield (
            f"{count.unreadable:,} more are left out: their properties are no UTF-8, so they are "
            "no events."
        )


def ended(destination: str, run: Run, seconds: float) -> Iterator[str]:
    count, copied = run.replay.count, run.copied
    what = "delivered" if run.is_delivered else "published"
    yield (
        f"Replay {run.replay.id}: {copied.published + copied.before:,} events of {count.users:,} "
        f"users are {what} in {seconds:.1f} s"
        + (f", {copied.before:,} of them by an earlier run." if copied.before else ".")
    )
    if not run.is_delivered:
        yield f"The workers of {destination} deliver them beside live ones."
    if copied.too_large:
        yield f"{copied.too_large:,} are left out: with what a copy says they are too large."
    if run.missing:
        yield f"{run.missing:,} that were counted at the start are not kept any more."


def how_to_go_on(destination: str, run: Run) -> str:
    events = run.replay.count.events
    wait = f" Live events of {destination} wait until it is done." if run.replay.instead else ""
    command = f"keylane replay {destination}"
    return (
        f"Replay {run.replay.id} is not done: {run.copied.events:,} of {events:,} events are "
        f"published.{wait} Go on with `{command} --resume {run.replay.id}`, or end it with "
        f"`{command} --cancel {run.replay.id}`."
    )


def as_dict(
    destination: str, wanted: Wanted, count: Count, run: Run | None, seconds: float
) -> dict[str, Any]:
    """The result for programs; without a run nothing was published."""
    begin = count.kept_from_ms
    told: dict[str, Any] = {
        "destination": destination,
        "id": None,
        "from": rfc3339(wanted.from_ms),
        "to": rfc3339(wanted.to_ms),
        "user": wanted.user,
        "type": wanted.type,
        "instead": False,
        "started": None,
        "finished": None,
        "events": count.events,
        "users": count.users,
        "without_key": count.without_key,
        "unreadable": count.unreadable,
        "state": "counted",
        "goes_on": False,
        "published": 0,
        "published_before": 0,
        "too_large": 0,
        "missing": 0,
        "kept_from": None if begin is None else rfc3339(begin),
        "seconds": round(seconds, 3),
    }
    if run is None:
        return told
    return told | {
        **run.replay.as_dict(),
        "state": "delivered" if run.is_delivered else "published",
        "goes_on": run.goes_on,
        "published": run.copied.published,
        "published_before": run.copied.before,
        "too_large": run.copied.too_large,
        "missing": run.missing,
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    shown = Table(box=box.SIMPLE_HEAD)
    for column in _COLUMNS:
        # An id is there to be copied.
        shown.add_column(column, no_wrap=column == "id", overflow="fold")
    for row in rows:
        state = row["state"] + (", instead of live" if row["instead"] else "")
        numbers = f"{row['events']:,}", f"{row['users']:,}"
        window = row["from"], row["to"], row["user"] or "", row["type"] or ""
        shown.add_row(row["id"], state, *window, *numbers)
    console().print(shown)
