"""What is remembered of requests, as a store sees it: values under names, changed all or none.

A value is a record, known for the window, or a lease, which ends with the reservation time unless
it is written again. Whoever holds a lease and dies is thus gone by the store's own clock; nothing
here compares the clocks of two machines. What the values mean stands in records.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from keylane.errors import KeylaneError

#: Times that a change is tried against writers who were faster.
_TRIES: Final = 8


class StoreDown(KeylaneError):  # noqa: N818  named by the fact
    """The store does not answer; what was asked of it may be done or not."""


class Write(NamedTuple):
    """What a name shall hold; `None` removes it."""

    value: bytes | None
    is_lease: bool = False


REMOVED: Final = Write(None)


class Store(Protocol):
    """Two adapters stand behind it: memory.py and redisstore.py."""

    async def exchange(
        self,
        names: Sequence[bytes],
        expected: Sequence[bytes | None],
        writes: Sequence[Write | None],
    ) -> list[bytes | None] | None:
        """Make all the changes if every name holds what is expected, else none.

        Returns `None` once they are made, else what the names hold now. A write of `None` leaves
        its name alone. Raises `StoreDown`.
        """
        ...

    async def close(self) -> None: ...


#: Tells from what the names hold what they shall hold; empty for nothing to change.
Decide = Callable[[Sequence[bytes | None]], Sequence[Write | None]]


async def change(
    store: Store, names: Sequence[bytes], assumed: Sequence[bytes | None], decide: Decide
) -> None:
    """Bring the names to what `decide` makes of their values, starting from those assumed.

    Raises what `decide` raises, and `StoreDown`.
    """
    values = assumed
    for _ in range(_TRIES):
        writes = decide(values)
        if not any(writes):
            return
        current = await store.exchange(names, values, writes)
        # What holds already was written by an exchange whose answer was lost.
        if current is None or _holds(current, values, writes):
            return
        values = current
    raise StoreDown("Others changed the same names all the time.")


def _holds(
    current: Sequence[bytes | None],
    values: Sequence[bytes | None],
    writes: Sequence[Write | None],
) -> bool:
    return all(
        held == (value if write is None else write.value)
        for held, value, write in zip(current, values, writes, strict=True)
    )


def open_store(url: str, *, window_s: float, reservation_s: float) -> Store | None:
    """The store of a URL: `memory:`, `redis://`, `rediss://`, `unix://`; `None` for `off`.

    Connects when first used. Raises `ConfigurationError` for a URL that can't be read.
    """
    if url == "off":
        return None
    if url == "memory:":
        from ingest.idempotency.memory import MemoryStore

        return MemoryStore(window_s=window_s, reservation_s=reservation_s)
    from ingest.idempotency.redisstore import RedisStore  # the client takes 0.1 s to import

    return RedisStore(url, window_s=window_s, reservation_s=reservation_s)
