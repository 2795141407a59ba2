"""How far a long run is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, ParamSpec, TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from operate.send import Report, Watcher

_Told = ParamSpec("_Told")

#: Is told how many of how many are done, None where nobody knows; must be quick.
Tell: TypeAlias = Callable[[int, int | None], None]
#: Seconds between two plain lines; a run that is shorter writes none.
LINE_EVERY_S: Final = 5.0


@contextlib.contextmanager
def counting(what: str) -> Iterator[Tell]:
    """Show how many of how many until the block ends."""
    if sys.stderr.isatty():
        with _bar(what, MofNCompleteColumn(), TimeRemainingColumn()) as (progress, task):
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return

    def spoken(done: int, total: int | None) -> str:
        return f"{what}: {done:,}" + ("" if total is None else f" of {total:,}")

    yield _now_and_then(spoken)


@contextlib.contextmanager
def watching(total_bytes: int | None) -> Iterator[Watcher]:
    """Show how far sending is until the block ends; without a total it is counted, not measured."""
    if sys.stderr.isatty():
        with _bar("sending", TimeElapsedColumn(), TimeRemainingColumn()) as (progress, task):
            yield lambda report: progress.update(
                task, total=total_bytes, completed=report.read_bytes, description=_counted(report)
            )
    else:
        yield _now_and_then(_counted)


@contextlib.contextmanager
def stating(first: str) -> Iterator[Callable[[str], None]]:
    """Say what is being done until the block ends: on a terminal at once, else now and then."""
    if sys.stderr.isatty():
        with Console(stderr=True).status(first) as status:
            yield status.update
    else:
        yield _now_and_then(str)


@contextlib.contextmanager
def _bar(what: str, *columns: ProgressColumn) -> Iterator[tuple[Progress, TaskID]]:
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), *columns)
    with Progress(*shown, console=console, transient=True) as progress:
        yield progress, progress.add_task(what, total=None)


def _now_and_then(spoken: Callable[_Told, str]) -> Callable[_Told, None]:
    """Writes what `spoken` makes of what is told, if that is due."""
    last = time.monotonic()

    def tell(*args: _Told.args, **kwargs: _Told.kwargs) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            sys.stderr.write(f"{spoken(*args, **kwargs)}\n")

    return tell


def _counted(report: Report) -> str:
    return f"accepted {report.accepted:,}, refused {len(report.refused):,}"
