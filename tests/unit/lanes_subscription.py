"""The broker at its worst: what a consumer held or gives back is overtaken by everything else."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import override

from keylane.broker import Position
from keylane.keyshared import KeySharedSubscription
from keylane.partitionlog import PartitionLog


class SlowSubscription(KeySharedSubscription):
    """A subscription that can be slow to send again what a consumer held.

    Seen at Pulsar 4.0.8: what it is just reading goes out first, and what a consumer held that had
    much came 1.9 s later. Of what is given back it lets a user's hash go before it knows what it
    has to send again, and what it reads in between is newer.
    """

    def __init__(self, log: PartitionLog, *, ring_points: int) -> None:
        super().__init__(log, ring_points=ring_points)
        #: Set around a `leave` or `negative_acknowledge` that is to be like that.
        self.is_slow = False
        self._late: dict[Position, int] = {}

    @override
    def leave(self, name: str) -> None:
        member = self._members.get(name)
        if member and self.is_slow:
            self._late.update(member.pending)
            for key_hash in member.pending.values():
                self._holds.pop(key_hash, None)
            member.pending.clear()
        super().leave(name)

    @override
    def negative_acknowledge(self, name: str, positions: Iterable[Position]) -> None:
        super().negative_acknowledge(name, positions)
        for position in positions:
            if self.is_slow and position in self._replay:
                self._take_from_replay(position)
                self._late[position] = self._log.at(position).key_hash

    def catch_up(self, events: int | None = None) -> None:
        """Send it now, or only so many of those that wait for longest."""
        for position in list(self._late)[:events]:
            key_hash = self._late.pop(position)
            index = self._log.index_of(position)
            if index is not None and not self._is_acknowledged(index, position):
                self._keep_for_replay(position, key_hash)
        self._file_replay()

    @override
    def _start_over(self) -> None:
        # Everything is read from the log again.
        self._late.clear()
        super()._start_over()
