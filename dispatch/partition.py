"""What a worker knows of one partition that it receives from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from dispatch.lane import Entry, Lane, LaneKey
from keylane.broker import Position

#: How long ids of finished events are remembered at least. Acknowledgements leave the client
#: within 0.1 s, but the broker saves those above a hole only every 10 to 60 s: after its death it
#: sends them again.
FINISHED_KEPT_S: Final = 60.0
#: And how many at most, twice: about 10 MB a partition.
FINISHED_KEPT: Final = 50_000
#: The most that one step adds to the clock of receiving time: a process that did not run for a
#: while must not believe that the broker was silent for that long.
MAX_STEP_S: Final = 0.25


class FinishedLately:
    """Positions of events finished in the last minute or two, in two generations."""

    __slots__ = ("_current", "_previous", "_turned_at")

    def __init__(self) -> None:
        self._current: set[Position] = set()
        self._previous: set[Position] = set()
        self._turned_at = 0.0

    def add(self, position: Position) -> None:
        self._current.add(position)

    def __contains__(self, position: Position) -> bool:
        return position in self._current or position in self._previous

    def forget_older(self, now: float) -> None:
        is_due = now - self._turned_at >= FINISHED_KEPT_S
        if is_due or len(self._current) >= FINISHED_KEPT:
            self._previous, self._current = self._current, set()
            self._turned_at = now


@dataclass(slots=True)
class Partition:
    """Lanes by key, and what waits to be given back to the broker.

    `received_s` is a clock that runs only while messages can reach us: a closed gate or a lost
    connection must not look like a key that moved.
    """

    number: int
    is_connected: bool = False
    connected_at: float = 0.0
    is_receiving: bool = False
    received_s: float = 0.0
    stepped_at: float = 0.0
    lanes: dict[LaneKey, Lane] = field(default_factory=dict)
    finished: FinishedLately = field(default_factory=FinishedLately)
    #: Heads whose backoff is over.
    due_heads: deque[Entry] = field(default_factory=deque)
    #: Lanes to be given back, each with the position up to which that is done.
    due_tails: deque[tuple[Lane, Position]] = field(default_factory=deque)
    #: No negative acknowledgement before this.
    next_burst: float = 0.0

    def step(self, now: float) -> None:
        if self.is_receiving and self.is_connected:
            self.received_s += min(now - self.stepped_at, MAX_STEP_S)
        self.stepped_at = now
        self.finished.forget_older(now)

    @property
    def owes_redelivery(self) -> bool:
        return self.is_connected and bool(self.due_heads or self.due_tails)
