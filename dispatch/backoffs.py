"""Heads that wait for their next attempt, or for the next publish to the dead-letter topic."""

from __future__ import annotations

from collections.abc import Callable

from dispatch.lane import Entry, Lane, State
from dispatch.options import LaneOptions
from dispatch.partition import Partition
from dispatch.tally import Tally
from dispatch.timers import Due, Timers


class Backoffs:
    """A head goes back to the broker shortly before its time, so that its owner attempts it.

    `dead_letter` is told of an entry to be published again, `reconsider` of a lane whose head is
    ready here, `drop` of one whose head is another worker's to decide on.
    """

    def __init__(
        self,
        options: LaneOptions,
        tally: Tally,
        timers: Timers,
        dead_letter: Callable[[Entry], None],
        reconsider: Callable[[Partition, Lane, float], None],
        drop: Callable[[Partition, Lane, Entry, float], None],
    ) -> None:
        self._options = options
        self._tally = tally
        self._timers = timers
        self._dead_letter = dead_letter
        self._reconsider = reconsider
        self._drop = drop

    def wait(self, entry: Entry, delay_s: float, now: float) -> None:
        self._tally.move(entry, State.BACKOFF)
        entry.due = now + delay_s
        if entry.lane:
            lead_s = 0.0 if entry.is_condemned else self._options.lead_s
            self._timers.set(entry.due - lead_s, Due.BACKOFF, entry.lane, entry, entry.due)
            self._tally.weigh(entry.lane)

    def end(self, partition: Partition, entry: Entry, due: float, now: float) -> None:
        """The timer that was set for `due` has rung."""
        lane = entry.lane
        if lane is None or entry.state is not State.BACKOFF or entry.due != due:
            return
        if entry.is_condemned:
            self._end_wait_of_condemned(partition, lane, entry, now)
        elif entry.is_stray or not self._must_stay(entry):
            partition.due_heads.append(entry)
        elif now < due:
            self._timers.set(due, Due.BACKOFF, lane, entry, due)
        else:
            self.end_here(partition, lane, entry, now)

    def end_here(self, partition: Partition, lane: Lane, entry: Entry, now: float) -> None:
        """It could not come back now, or should not take the time: try again what is in hand.

        The broker's count knows nothing of that, so the entry stays here until it is done.
        """
        entry.stays = True
        self._tally.move(entry, State.HELD)
        self._reconsider(partition, lane, now)

    def _end_wait_of_condemned(
        self, partition: Partition, lane: Lane, entry: Entry, now: float
    ) -> None:
        if not entry.is_stray:
            self._dead_letter(entry)
        elif partition.connected_s < self._options.fresh_s:
            # If it is still ours the broker is about to send it again.
            self.wait(entry, self._options.fresh_s, now)
        else:
            # Another worker has it, or had: what is to become of it is decided there.
            self._drop(partition, lane, entry, now)

    def _must_stay(self, entry: Entry) -> bool:
        return entry.stays or entry.lane in self._tally.full or not self._tally.is_receiving
