"""Records in this process's memory: bounded, the oldest leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from dispatch.once.store import Mark, Record, unix_ms

#: Records at most; the oldest leave before their time beyond it.
MAX_NAMES: Final = 1_000_000


class Remembered:
    """Forgets a record `ttl_s` seconds after it was made."""

    def __init__(
        self,
        ttl_s: float,
        *,
        max_names: int = MAX_NAMES,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self._ttl_ms = round(ttl_s * 1000)
        self._max_names = max_names
        self._now_ms = now_ms
        # Nearly all are deliveries, of which only the time counts: no object for each.
        # Plain dicts look for their first entry among all that have left since they grew.
        self._delivered: OrderedDict[bytes, int] = OrderedDict()
        self._others: OrderedDict[bytes, Record] = OrderedDict()
        #: Records that had to leave before their time.
        self.crowded_out = 0

    def __len__(self) -> int:
        return len(self._delivered) + len(self._others)

    def get(self, name: bytes) -> Record | None:
        if (at_ms := self._delivered.get(name)) is not None:
            found: Record | None = Record(Mark.DELIVERED, "", at_ms)
        else:
            found = self._others.get(name)
        if found is None or found.at_ms <= self._now_ms() - self._ttl_ms:
            return None
        return found

    def put(self, name: bytes, record: Record) -> None:
        self.forget(name)
        if record.mark is Mark.DELIVERED:
            self._delivered[name] = record.at_ms
        else:
            self._others[name] = record
        self._sweep()

    def forget(self, name: bytes) -> None:
        self._delivered.pop(name, None)
        self._others.pop(name, None)

    def _sweep(self) -> None:
        past_ms = self._now_ms() - self._ttl_ms
        while (oldest := next(iter(self._delivered.items()), None)) and oldest[1] <= past_ms:
            del self._delivered[oldest[0]]
        while (first := next(iter(self._others.items()), None)) and first[1].at_ms <= past_ms:
            del self._others[first[0]]
        while len(self) > self._max_names:
            fuller: OrderedDict[bytes, Any] = self._delivered
            if len(self._others) > len(self._delivered):
                fuller = self._others
            del fuller[next(iter(fuller))]
            self.crowded_out += 1
