"""Ids for the events of a request that came without."""

from __future__ import annotations

import os
from typing import Final

#: The two bits of the RFC 9562 variant before two random ones.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}

#: Hex digits of randomness drawn for each id; 19 of them are used.
_DRAWN: Final = 20


def new_event_ids(count: int, now_ms: int) -> list[str]:
    """UUIDv7s of one moment, as `keylane.event.new_event_id` makes them, at a fifth of the cost.

    Made one by one they are the largest part of what an event costs in this process.
    """
    moment = f"{now_ms:012x}"
    head = f"{moment[:8]}-{moment[8:]}-7"
    drawn = os.urandom(_DRAWN // 2 * count).hex()
    return [
        f"{head}{drawn[i : i + 3]}-{_VARIANT[drawn[i + 3]]}{drawn[i + 4 : i + 7]}"
        f"-{drawn[i + 7 : i + 19]}"
        for i in range(0, len(drawn), _DRAWN)
    ]
