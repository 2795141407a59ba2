"""A head that is away: waited for, and what happens when it does not come back.

When a key moves to another worker, the broker sends nothing of it there while we hold some of it
unacknowledged. So a head that is not back within `grace_s` makes us give back all of its lane, and
whatever arrives for that lane later as well: the broker redelivers in order, so an event that comes
back without its predecessors, and does so again when it was given back once more, proves that those
are done elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from dispatch.lane import Entry, Lane, State
from dispatch.options import LaneOptions
from dispatch.partition import Partition
from dispatch.redelivery import Redelivery
from dispatch.settling import ROUNDING_S
from dispatch.tally import Tally
from dispatch.timers import Due, Timers


class Absences:
    """Waits for heads on the clock of receiving time: silence of our own making proves nothing.

    `note` is told of a head before its lane is given back, `go_on` of a lane that has another head.
    """

    def __init__(
        self,
        options: LaneOptions,
        tally: Tally,
        timers: Timers,
        redelivery: Redelivery,
        note: Callable[[Entry, int], None],
        go_on: Callable[[Partition, Lane, float], None],
    ) -> None:
        self.options = options
        #: Lanes given back so far.
        self.given_back = 0
        self._tally = tally
        self._timers = timers
        self._redelivery = redelivery
        self._note = note
        self._go_on = go_on

    def wait(self, partition: Partition, lane: Lane, patience_s: float, now: float) -> None:
        """Its head is on its way back, and may take that long."""
        lane.awaited_until = partition.received_s + patience_s
        self._timers.set(now + patience_s, Due.AWAIT, lane, lane.head, lane.awaited_until)

    def came_back(self, partition: Partition, lane: Lane, entry: Entry, now: float) -> None:
        """An event of a lane that was given back is here again, and is not its head."""
        if entry.given_back_in != lane.episode:
            # Asked for before the head went away, so it proves nothing: once more.
            self._redelivery.give_back(partition, lane, entry.position)
        elif lane.awaited_until == math.inf:
            self.wait(partition, lane, self.options.quiet_s, now)

    def met(self, partition: Partition, lane: Lane, entry: Entry) -> None:
        """An event that was not known arrives for a lane that was given back: it goes back too."""
        if lane.entries[-1] is entry:
            self._redelivery.give_back(partition, lane, entry.position)
        else:
            # Those behind it went back before it, so they prove nothing of it.
            lane.proofs = 0
            self._ask_for_proof(partition, lane)

    def lose_patience(
        self, partition: Partition, lane: Lane, entry: Entry, until: float, now: float
    ) -> None:
        """The time that `entry` had to come back, set as `until`, may be over."""
        is_over = lane.head is not entry or entry.state is not State.AWAITED
        if is_over or lane.awaited_until != until:
            return
        remaining_s = until - partition.received_s
        if remaining_s > ROUNDING_S:
            self._timers.set(now + remaining_s, Due.AWAIT, lane, entry, until)
        elif not lane.is_given_back:
            self._give_back(partition, lane, now)
        elif lane.proofs < self.options.proofs:
            self._ask_for_proof(partition, lane)
        else:
            self._presume_done(partition, lane, now)

    def _give_back(self, partition: Partition, lane: Lane, now: float) -> None:
        """The key moved: its new owner gets nothing while we hold something of it."""
        lane.is_given_back = True
        lane.proofs = 0
        self.given_back += 1
        self._note(lane.head, lane.head.count)
        self._ask_for_proof(partition, lane)
        self._forget_later(partition, lane, now)

    def _ask_for_proof(self, partition: Partition, lane: Lane) -> None:
        """Give back what is here: if it returns without what stands before it, that is done."""
        lane.proofs += 1
        lane.episode += 1
        lane.awaited_until = math.inf
        self._redelivery.give_all_back(partition, lane)

    def _presume_done(self, partition: Partition, lane: Lane, now: float) -> None:
        """Later events came back without these, so they were finished elsewhere."""
        entries = list(lane)
        first = next((i for i, e in enumerate(entries) if e.is_here), len(entries))
        for entry in entries[:first]:
            self._tally.leave(entry)
        lane.keep(entries[first:])
        lane.is_given_back = False
        self._go_on(partition, lane, now)

    def _forget_later(self, partition: Partition, lane: Lane, now: float) -> None:
        # On the clock of receiving time, or what waits behind a closed gate would meet a new lane.
        until = partition.received_s + self.options.forget_s
        self._timers.set(now + self.options.forget_s, Due.FORGET, lane, token=until)

    def forget(self, partition: Partition, lane: Lane, until: float, now: float) -> None:
        """Forget a lane that was given back, unless something of it came back meanwhile."""
        remaining_s = until - partition.received_s
        if remaining_s > ROUNDING_S:
            self._timers.set(now + remaining_s, Due.FORGET, lane, token=until)
        elif all(entry.state is State.AWAITED for entry in lane):
            self._tally.forget(partition, lane)
        else:
            self._forget_later(partition, lane, now)
