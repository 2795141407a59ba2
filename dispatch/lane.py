"""One user's unfinished events at this worker, in the order the broker stored them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from enum import IntEnum
from operator import attrgetter
from typing import TypeAlias

from keylane.broker import Position, Received

#: A user, or the position of a message without a key, which is a lane of its own.
LaneKey: TypeAlias = str | Position


class State(IntEnum):
    """Where an entry is. Only a lane's head is ever in one of the last three."""

    HELD = 0
    """Its message is here, waiting for its turn."""
    AWAITED = 1
    """Negatively acknowledged by us; expected back."""
    PAGED = 2
    """Unacknowledged, but only its position is here: its payload stays at the broker."""
    IN_FLIGHT = 3
    """An attempt is running."""
    BACKOFF = 4
    """Failed; unacknowledged at the broker while its delay runs, so that its key can't move on."""
    DEAD_LETTERING = 5
    """Given up; on its way to the dead-letter topic."""


class Entry:
    """One event in its lane.

    `attempts` were made here, `attempts_elsewhere` by other workers as far as the broker's counts
    tell. `count` is the redelivery count that its next arrival has if nobody else touches it.
    `payload_bytes` is what it counts for in the worker's payload budget, 0 for one that opened its
    lane. `given_back_in` is the last episode of its lane in which it was negatively acknowledged
    without an attempt, because the head went elsewhere. `stays` says that it was retried from here
    without the broker's knowledge, and that its attempts are therefore all made here.
    `is_condemned` says that it was given up but isn't confirmed in the dead-letter topic yet.
    `is_stray` says that it was being attempted when the connection was lost, and that the broker
    has not sent it again since: it may be another worker's by now.
    `context` belongs to the shell: what it wants to remember from one attempt to the next.
    """

    __slots__ = (
        "attempts",
        "attempts_elsewhere",
        "context",
        "count",
        "due",
        "given_back_in",
        "is_condemned",
        "is_stray",
        "lane",
        "message",
        "payload_bytes",
        "position",
        "state",
        "stays",
    )

    def __init__(self, lane: Lane, message: Received, position: Position) -> None:
        self.lane: Lane | None = lane
        self.message: Received | None = message
        self.position = position
        self.state = State.HELD
        self.count = message.redelivery_count
        self.attempts = 0
        self.attempts_elsewhere = 0
        self.due = 0.0
        self.payload_bytes = 0
        self.given_back_in = 0
        self.stays = False
        self.is_condemned = False
        self.is_stray = False
        self.context: object = None

    @property
    def attempt(self) -> int:
        """The number of the attempt that is running or comes next; the first is 1."""
        return self.attempts_elsewhere + self.attempts + 1

    @property
    def is_here(self) -> bool:
        """Unacknowledged at the broker, and waiting for its turn."""
        return self.state is State.HELD or self.state is State.PAGED

    @property
    def is_started(self) -> bool:
        """An attempt was made here, or is running."""
        return self.attempts > 0 or self.state >= State.IN_FLIGHT


_by_position = attrgetter("position")


class Lane:
    """The entries of one key of one partition; the first is the head, the rest is in order.

    A list with a moving start: appending, finishing the head and finding a position stay cheap
    with a hundred thousand entries.
    """

    __slots__ = (
        "awaited_until",
        "entries",
        "episode",
        "head_since",
        "is_asking",
        "is_away",
        "is_cleared",
        "is_fetching",
        "is_given_back",
        "is_queued",
        "is_settling",
        "is_slow",
        "key",
        "last",
        "paged",
        "partition",
        "proofs",
        "start",
        "started_at",
        "takes_slow_slot",
        "ticket",
        "weight",
    )

    def __init__(self, key: LaneKey, partition: int, now: float) -> None:
        self.key = key
        self.partition = partition
        self.entries: list[Entry] = []
        self.start = 0
        #: The highest position that was ever here: what comes behind it is new.
        self.last: Position = (-1, -1, -1)
        #: Stands in the round of lanes whose head can be attempted.
        self.is_queued = False
        #: Waits a moment for an earlier event that may still be on its way.
        self.is_settling = False
        #: Its user's attempts take long. (What the turns know of it.)
        self.is_slow = False
        #: The attempt that runs is one of those that slow users may have.
        self.takes_slow_slot = False
        #: When its last attempt started.
        self.started_at = 0.0
        #: How many of its last entries are PAGED; they stand behind all others.
        self.paged = 0
        #: Some of those were asked for, or will be with the next negative acknowledgements.
        self.is_fetching = False
        #: Its head did not come back: the key moved, and the rest was (or is being) given back.
        self.is_given_back = False
        #: Counts how often something of it was given back because of that.
        self.episode = 0
        #: How often that was this time.
        self.proofs = 0
        #: When its head became the head.
        self.head_since = now
        #: Its head is not here. (What the tally has counted it as.)
        self.is_away = False
        #: Until when its head may stay away, on the partition's clock of receiving time.
        self.awaited_until = 0.0
        #: Its turn may come without asking (dispatch/clearance.py); it asks; and how often it did.
        self.is_cleared = True
        self.is_asking = False
        self.ticket = 0
        #: What it counts for at the receive gate.
        self.weight = 0

    def __len__(self) -> int:
        return len(self.entries) - self.start

    def __iter__(self) -> Iterator[Entry]:
        for index in range(self.start, len(self.entries)):
            yield self.entries[index]

    @property
    def window(self) -> int:
        """How many of its entries have their payload here, or will have it soon."""
        return len(self.entries) - self.start - self.paged

    @property
    def needs_receiving(self) -> bool:
        """It would never drain if nothing were received: its head is on its way back, or waits for
        what may come before it, or for being sent again if it is still ours, or for leave."""
        if self.is_away or self.is_settling or not self.is_cleared:
            return True
        head = self.head
        return head.is_stray and head.state is State.BACKOFF

    @property
    def head(self) -> Entry:
        """The only entry that may be attempted; the lane must not be empty."""
        return self.entries[self.start]

    def find(self, position: Position) -> Entry | None:
        """The entry at this position, if it is here."""
        if position > self.last:
            return None
        if self.head.position == position:
            return self.head
        index = bisect_left(self.entries, position, lo=self.start + 1, key=_by_position)
        if index < len(self.entries) and self.entries[index].position == position:
            return self.entries[index]
        return None

    def add(self, entry: Entry) -> bool:
        """Put it where its position says; True if that is before an entry already started.

        Such a late predecessor goes right behind the started head: two attempts of one user at
        once would be worse than an inversion that has already happened.
        """
        position = entry.position
        if position > self.last:
            self.last = position
            self.entries.append(entry)
            return False
        head = self.head
        if position < head.position and not head.is_started:
            self.entries.insert(self.start, entry)
            return False
        index = bisect_left(self.entries, position, lo=self.start + 1, key=_by_position)
        self.entries.insert(index, entry)
        return position < head.position

    def is_behind_pages(self, position: Position) -> bool:
        """Whether an entry at this position stands among those that are PAGED."""
        return self.paged > 0 and position > self.entries[-self.paged].position

    def entries_from(self, position: Position) -> Iterator[Entry]:
        """Those behind the head, from this position on."""
        first = bisect_left(self.entries, position, lo=self.start + 1, key=_by_position)
        for index in range(first, len(self.entries)):
            yield self.entries[index]

    def remove_head(self) -> Entry:
        entry = self.entries[self.start]
        self.start += 1
        if self.start > 32 and self.start * 2 > len(self.entries):  # noqa: PLR2004  amortised
            del self.entries[: self.start]
            self.start = 0
        return entry

    def keep(self, entries: list[Entry]) -> None:
        """Replace the entries by some of them; the caller has seen to those left out."""
        self.entries = entries
        self.start = 0
        self.paged = sum(entry.state is State.PAGED for entry in entries)
