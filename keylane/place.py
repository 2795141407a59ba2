"""Where a message lies, in words: a partition of a topic, and a position there."""

from __future__ import annotations

from keylane.broker import Position


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
