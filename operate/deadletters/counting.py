"""How far a long command is, on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Is told how many of how many are done, None where nobody knows; must be quick.
Tell: TypeAlias = Callable[[int, int | None], None]
#: Seconds between two plain lines; a run that is shorter writes none.
LINE_EVERY_S: Final = 5.0


@contextlib.contextmanager
def counting(what: str) -> Iterator[Tell]:
    """Show progress until the block ends."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def tell(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield tell


def _lines(what: str) -> Tell:
    last = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            sys.stderr.write(f"{what}: {done:,}{of}\n")

    return tell
