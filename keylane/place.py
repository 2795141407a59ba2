"""Where a message lies, in words: a partition of a topic, and a position there."""

from __future__ import annotations

from typing import NamedTuple, Self

from keylane.broker import Position


class EntryId(NamedTuple):
    """A stored entry: a message, or a batch of them, which is acknowledged as one."""

    ledger: int
    entry: int

    @classmethod
    def of(cls, position: Position) -> Self:
        return cls(position[0], position[1])

    @classmethod
    def read(cls, text: str) -> Self:
        ledger, entry = text.split(":")
        return cls(int(ledger), int(entry))


def place_of(partition: int, position: Position) -> str:
    """`partition:ledger:entry`, with the index in a batch behind it: grows per user."""
    ledger, entry, index = position
    return f"{partition}:{ledger}:{entry}{_behind(index)}"


def read_place(place: str) -> tuple[int, Position]:
    """What `place_of` wrote; raises `ValueError` for anything else."""
    partition, ledger, entry, *index = map(int, place.split(":"))
    return partition, (ledger, entry, index[0] if index else -1)


def origin_id(partition: int, position: Position) -> str:
    """`ledger:entry:partition`, with the index in a batch behind it: as Pulsar prints an id."""
    ledger, entry, index = position
    return f"{ledger}:{entry}:{partition}{_behind(index)}"


def _behind(index: int) -> str:
    return "" if index < 0 else f":{index}"
