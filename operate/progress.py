"""How far a long run is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from operate.send import Report, Watcher

#: Seconds between two plain lines; a run that is shorter writes none.
LINE_EVERY_S: Final = 5.0


@contextlib.contextmanager
def watching(total_bytes: int | None) -> Iterator[Watcher]:
    """Show progress until the block ends; without a total it is counted, not measured."""
    if sys.stderr.isatty():
        with _bar(total_bytes) as watch:
            yield watch
    else:
        yield _plain_lines()


@contextlib.contextmanager
def _bar(total_bytes: int | None) -> Iterator[Watcher]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sending", total=total_bytes)

        def watch(report: Report) -> None:
            progress.update(task, completed=report.read_bytes, description=_counted(report))

        yield watch


def _plain_lines() -> Watcher:
    last = time.monotonic()

    def watch(report: Report) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            sys.stderr.write(f"{_counted(report)}\n")

    return watch


def _counted(report: Report) -> str:
    return f"accepted {report.accepted:,}, refused {len(report.refused):,}"
