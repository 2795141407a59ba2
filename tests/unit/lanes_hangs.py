"""What never ends is told like anything else that breaks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: Of processor time. The longest schedules and scenarios take a tenth of a second.
HANGS_AFTER_S: Final = 2.0


@contextmanager
def ending_what_hangs() -> Iterator[None]:
    """`TimeoutError` in what takes longer; only for the main thread of a process of its own."""
    signal.signal(signal.SIGVTALRM, _end)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_AFTER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError("it does not end")
