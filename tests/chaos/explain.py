"""What a disturbance explains, and what nothing does.

A cut is what one disturbance did to some workers: the moment between `lost_from` and `lost_to` at
which the broker took their events from them, and the time from `deaf_from` on in which it heard no
acknowledgement of theirs. Explained is then, if another worker made the later attempt, after the
loss began:

- an overlap with an attempt that was running at the loss;
- a duplicate of what was delivered by an attempt that began before the loss was complete, and so
  late that its acknowledgement can't be taken for saved.

The same worker again is explained only after it may have forgotten what it finished; or if what it
did was to publish a dead letter between the loss and the healing: without a receipt it could not
know that it was stored; or if its process was stopped while the attempt ran: when it goes on, the
attempt's time is over before its answer is read. An attempt that one of these workers started after
the loss explains nothing, unless by its own log it had not noticed the loss yet, for a moment; and
an inversion or a gap is never explained.

Without a cut there is one explanation: a worker that got no answer in time goes on, and the
receiver reads its next request a moment before it sees the end of the connection of the last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatch.partition import FINISHED_KEPT_S
from tests.judge import (
    ACKNOWLEDGED_WITHIN_S,
    ON_ITS_WAY_S,
    Attempt,
    Book,
    DeadAt,
    Flag,
    Numbered,
    Verdict,
    Wrong,
)

#: A broker saves acknowledgements above a hole every 60 s, and takes a moment to do so; what it
#: had not saved when it was killed comes again.
UNSAVED_S: Final = 62.0
#: A dead letter without a receipt is published again after that, or after less.
RECEIPT_WITHIN_S: Final = 3.0
#: How much later that is, on a busy machine.
SEEN_LATE_S: Final = 0.1
#: A worker looks at its connections every 0.02 s; the rest is for a busy machine.
NOTICED_WITHIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """The events in the hands of some workers were taken from them."""

    #: The senders that it hit; `None` is all there were.
    senders: frozenset[str] | None
    deaf_from: float
    lost_from: float
    lost_to: float
    #: How long before `deaf_from` an acknowledgement has to be sent to be taken for saved.
    unsaved_s: float = ACKNOWLEDGED_WITHIN_S
    #: When the broker could be reached again; `None` is at once.
    healed_at: float | None = None
    #: The process itself stood still from `deaf_from` on.
    is_stop: bool = False

    @classmethod
    def at(cls, moment: float, *senders: str) -> Cut:
        """At one moment that is known."""
        return cls(frozenset(senders), moment, moment, moment)

    @property
    def heard_again_at(self) -> float:
        """When receipts can be counted on again, with those of what had been waiting."""
        healed_at = self.lost_to if self.healed_at is None else self.healed_at
        return healed_at + RECEIPT_WITHIN_S

    def hit(self, sender: str) -> bool:
        return self.senders is None or sender in self.senders


@dataclass(frozen=True, slots=True)
class Notice:
    """A worker logged then that it had lost a connection."""

    sender: str
    at: float


@dataclass(frozen=True, slots=True)
class Done:
    """Who attempted an event, from when to when: what a flag collides with."""

    sender: str
    started_at: float
    ended_at: float
    #: It ended when the event was published as a dead letter.
    is_dead_letter: bool = False


class Explanations:
    """Tells of each flag of a verdict whether one of the cuts explains it."""

    def __init__(
        self, cuts: Sequence[Cut], book: Book, dead_at: DeadAt, notices: Iterable[Notice] = ()
    ) -> None:
        self._cuts = cuts
        self._dead_at = dead_at
        self._noticed_at: dict[str, list[float]] = defaultdict(list)
        for notice in notices:
            self._noticed_at[notice.sender].append(notice.at)
        self._attempts: dict[Numbered, list[Attempt]] = defaultdict(list)
        for attempt in book.attempts:
            self._attempts[attempt.user, attempt.n].append(attempt)

    def explain(self, flag: Flag) -> bool:
        attempt = flag.attempt
        if attempt is None or flag.wrong not in (Wrong.OVERLAP, Wrong.DUPLICATE):
            return False
        done = self._done(flag)
        if _is_seen_late(flag.wrong, attempt, flag.earlier):
            return True
        return any(self._explains(cut, flag.wrong, attempt, done) for cut in self._cuts)

    def unexplained(self, verdict: Verdict, wrong: Wrong) -> list[Flag]:
        return [flag for flag in verdict.of(wrong) if not self.explain(flag)]

    def _done(self, flag: Flag) -> Done:
        earlier = flag.earlier
        if earlier is not None:
            ended_at = float("inf") if earlier.ended_at is None else earlier.ended_at
            return Done(earlier.sender, earlier.started_at, ended_at)
        # It had been dead-lettered, by whoever attempted it last before that.
        wall_s = self._dead_at[flag.user, flag.n]
        attempts = self._attempts[flag.user, flag.n]
        ended_at = attempts[0].started_at + wall_s - attempts[0].wall_s
        before = bisect_right([a.wall_s for a in attempts], wall_s)
        if not before:  # none of its attempts reached the receiver
            return Done("", float("-inf"), ended_at, is_dead_letter=True)
        last = attempts[before - 1]
        return Done(last.sender, last.started_at, ended_at, is_dead_letter=True)

    def _explains(self, cut: Cut, wrong: Wrong, attempt: Attempt, done: Done) -> bool:
        if not cut.hit(done.sender) or attempt.started_at < cut.lost_from:
            return False
        if done.started_at - ON_ITS_WAY_S > self._unnoticed_to(cut, done.sender):
            return False
        if wrong is Wrong.OVERLAP:
            return attempt.sender != done.sender and done.ended_at >= cut.lost_from
        if done.is_dead_letter and done.ended_at > cut.heard_again_at:
            return False
        heard_s = cut.unsaved_s
        is_forgotten = attempt.started_at - done.ended_at > FINISHED_KEPT_S
        if attempt.sender == done.sender and not is_forgotten:
            if not done.is_dead_letter:
                was_running = done.started_at - ON_ITS_WAY_S <= cut.deaf_from <= done.ended_at
                return cut.is_stop and was_running
            heard_s = ACKNOWLEDGED_WITHIN_S
        return done.ended_at >= cut.deaf_from - heard_s

    def _unnoticed_to(self, cut: Cut, sender: str) -> float:
        soon = cut.lost_to + NOTICED_WITHIN_S
        noticed = [at for at in self._noticed_at[sender] if cut.lost_from <= at <= soon]
        return max(cut.lost_to, min(noticed, default=cut.lost_to))


def _is_seen_late(wrong: Wrong, attempt: Attempt, earlier: Attempt | None) -> bool:
    """Whether all that overlaps is the time that the receiver took to see a sender's end."""
    return (
        wrong is Wrong.OVERLAP
        and earlier is not None
        and earlier.ended_at is not None
        and not earlier.status
        and attempt.sender == earlier.sender
        and earlier.ended_at - attempt.started_at < SEEN_LATE_S
    )


@dataclass(frozen=True, slots=True)
class Absence:
    """The broker certainly knew no consumer of this worker on this partition all that time."""

    sender: str
    partition: int
    from_: float
    to: float

    def has(self, attempt: Attempt) -> bool:
        return (
            attempt.sender == self.sender
            and attempt.position.startswith(f"{self.partition}:")
            and self.from_ < attempt.started_at < self.to
        )


def late_starts(book: Book, absences: Iterable[Absence]) -> list[Attempt]:
    """Attempts that began while the broker had given their worker's users to others."""
    known = list(absences)
    return [attempt for attempt in book.attempts if any(a.has(attempt) for a in known)]
