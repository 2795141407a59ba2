"""What is remembered in this process; gone with it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from typing_extensions import override

from ingest.idempotency.store import Store, Write

#: Keys and ids that are remembered at most, and the bytes of their values.
MAX_NAMES: Final = 200_000
MAX_BYTES: Final = 128 * 1024 * 1024


class MemoryStore(Store):
    """Bounded: beyond it the oldest records leave first, leases never before their time."""

    def __init__(
        self,
        *,
        window_s: float,
        reservation_s: float,
        max_names: int = MAX_NAMES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = _Expiring(window_s, clock)
        self._leases = _Expiring(reservation_s, clock)
        self._max_names = max_names
        self._max_bytes = max_bytes

    @property
    def size(self) -> int:
        """How many keys and ids are remembered or leased."""
        return len(self._records.entries) + len(self._leases.entries)

    @override
    async def exchange(
        self,
        names: Sequence[bytes],
        expected: Sequence[bytes | None],
        writes: Sequence[Write | None],
    ) -> list[bytes | None] | None:
        self._leases.expire()
        self._records.expire()
        current = [self._leases.get(name) or self._records.get(name) for name in names]
        if current != list(expected):
            return current
        for name, write in zip(names, writes, strict=True):
            if write is not None:
                self._put(name, write)
        while self.size > self._max_names or self._records.bytes > self._max_bytes:
            if not self._records.entries:
                break
            self._records.remove(next(iter(self._records.entries)))
        return None

    def _put(self, name: bytes, write: Write) -> None:
        self._leases.remove(name)
        self._records.remove(name)
        if write.value is not None:
            (self._leases if write.is_lease else self._records).put(name, write.value)

    @override
    async def close(self) -> None:
        return None


class _Expiring:
    """Values that all live equally long, so that the oldest is the first to leave."""

    def __init__(self, life_s: float, clock: Callable[[], float]) -> None:
        # A plain dict would look for its first entry among all that have left since it last grew.
        self.entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.bytes = 0
        self._life_s = life_s
        self._clock = clock

    def get(self, name: bytes) -> bytes | None:
        entry = self.entries.get(name)
        return entry[0] if entry else None

    def put(self, name: bytes, value: bytes) -> None:
        self.entries[name] = value, self._clock() + self._life_s
        self.bytes += len(value)

    def remove(self, name: bytes) -> None:
        if entry := self.entries.pop(name, None):
            self.bytes -= len(entry[0])

    def expire(self) -> None:
        now = self._clock()
        while self.entries:
            name, (_value, until) = next(iter(self.entries.items()))
            if until > now:
                return
            self.remove(name)
