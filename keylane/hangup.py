"""SIGHUP: "read your settings again", unless it is the terminal that has gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STANDARD: Final = (0, 1, 2)


class Terminal:
    """The terminal of this process, if it has one now."""

    def __init__(self) -> None:
        self._descriptors = [number for number in _STANDARD if os.isatty(number)]

    def is_gone(self) -> bool:
        """Whether there was one, which has been closed."""
        return bool(self._descriptors) and not any(map(os.isatty, self._descriptors))


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that start within the block get no SIGHUP before they have called `take`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        take()


def take() -> None:
    """Let SIGHUP in, also one that came while it was held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
