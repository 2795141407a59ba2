"""`memory:` remembers in this process; gone with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from typing_extensions import override

from dispatch.once.remembered import MAX_NAMES, Remembered
from dispatch.once.store import DeliveryStore, Doubt, Record, this_process, unix_ms


class MemoryStore(DeliveryStore):
    """Notes no attempt that began: with the process the note would end too."""

    def __init__(
        self,
        *,
        ttl_s: float,
        max_names: int = MAX_NAMES,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.ttl_s = ttl_s
        self.who = this_process()
        self._remembered = Remembered(ttl_s, max_names=max_names, now_ms=now_ms)

    @override
    async def open(self) -> None:
        return None

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        return [self._remembered.get(name) for name in names]

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        for name, record in records.items():
            if record is not None:
                self._remembered.put(name, record)

    @override
    async def close(self) -> None:
        return None
