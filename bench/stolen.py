"""How much of the machine others took: a guest's processors that its host gave to somebody else."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_STAT: Final = Path("/proc/stat")
_EVERY_S: Final = 0.5
#: Fields of `cpu` in /proc/stat (proc_pid_stat(5)): of the first eight, which are all time there
#: is, the last is what was stolen.
_FIELDS: Final = slice(1, 9)


class Look(NamedTuple):
    """What had been stolen, of what there was, at a moment; in ticks since the start."""

    at: float
    stolen: int
    all: int


class Stolen:
    """Looks now and then; knows of nothing stolen where there is no /proc/stat."""

    def __init__(self) -> None:
        self.looks: list[Look] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.is_set() and (look := _look()):
                self.looks.append(look)
                over.wait(_EVERY_S)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def share(self, began: float, ended: float) -> float:
        """Of all time between two moments of `time.monotonic`."""
        within = [look for look in self.looks if began <= look.at < ended]
        if len(within) < 2:
            return 0.0
        first, last = within[0], within[-1]
        return (last.stolen - first.stolen) / max(1, last.all - first.all)


def _look() -> Look | None:
    try:
        line = _STAT.read_text().partition("\n")[0]
    except OSError:
        return None
    ticks = [int(field) for field in line.split()[_FIELDS]]
    return Look(time.monotonic(), ticks[-1], sum(ticks))
