"""Keeps Python's garbage collector from walking all events in hand in the middle of the work.

With 500,000 of them a full collection took up to 0.8 s, in which nobody was delivered to. The lanes
break their own cycles, so what they drop is free at once; what libraries leave behind is collected
here while little is in hand.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Final

#: How often, and below how many events in hand: a full collection takes some 10 ms then.
COLLECT_EVERY_S: Final = 60.0
COLLECT_BELOW_EVENTS: Final = 10_000
#: New objects until the young are looked at. What comes from the broker in one go makes some
#: thousands that live on for a moment; at Python's 700 each of them is looked at several times. Not
#: more, because what libraries leave in cycles waits for as long: of a mail that can't be sent 120
#: objects, and the mail.
YOUNG: Final = 5_000
_NEVER: Final = 1_000_000


def defer_full_collections() -> None:
    """Collect the young seldom, the old never by itself."""
    gc.collect()
    gc.freeze()
    _, middle, _ = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, _NEVER)


async def collect_when_idle(events_in_hand: Callable[[], int]) -> None:
    """Collect everything every minute in which few events are in hand; for ever."""
    while True:
        await asyncio.sleep(COLLECT_EVERY_S)
        if events_in_hand() < COLLECT_BELOW_EVENTS:
            gc.collect()
