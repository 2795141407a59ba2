"""Waiting for what is counted in another process, which tells only when it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.errors import BenchError
from bench.parts import receiver
from bench.processes import LivingPart

_POLL_S: Final = 0.1


def counted(target: LivingPart) -> receiver.Counted:
    """What has arrived at a receiver."""
    target.tell(receiver.Count())
    return target.hear(receiver.Counted)


def wait_arrived(target: LivingPart, count: int, within_s: float) -> None:
    """Raises `BenchError` if not so many events arrive in that time."""
    wait_for(lambda: counted(target).arrived, count, within_s, "{:,} of {:,} events arrived")


def wait_for(look: Callable[[], float], count: int, within_s: float, saying: str) -> None:
    """Until `look` finds so many.

    Raises `BenchError` after `within_s` seconds; `saying` has a place for what was found then, and
    one for `count`.
    """
    deadline = time.monotonic() + within_s
    while (found := look()) < count:
        if time.monotonic() > deadline:
            raise BenchError(saying.format(found, count))
        time.sleep(_POLL_S)
