"""What a schedule must never show, judged attempt by attempt.

Knows what only an onlooker can: what the destination took, which workers the broker still counts,
and which acknowledgements got lost. A disturbance excuses exactly the attempts that it touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from dispatch.lane import Entry
from keylane.broker import Position

ROUNDING_S = 1e-6
#: What is said while a worker joins it may not hear.
JOINING_S = 1.0
#: A worker must not attempt again what it finished so lately.
REMEMBERED_S = 60.0


class PromiseBrokenError(AssertionError):
    """A promise was broken."""


@dataclass(eq=False, slots=True)
class Attempt:
    """One try of one event, as its destination sees it; later perhaps its way to the dead letters.

    `is_orphaned` says that the broker let go of its worker while it ran, and may have given the
    event to another since.
    """

    process: int
    worker: str
    #: None while it needs no lane.
    entry: Entry | None
    position: Position
    user: str
    is_orphaned: bool = False
    #: How often it was sent to the dead-letter topic.
    burials: int = 0


Clock: TypeAlias = Callable[[], float]


class Judge:
    """Is told of everything that happens; and raises at the first thing that must not."""

    def __init__(self, clock: Clock, max_attempts: int, *, pages: bool) -> None:
        self._clock = clock
        self.max_attempts = max_attempts
        self.pages = pages
        #: Each user's events in order, and how many of the first ones are all finished.
        self.users: dict[str, list[Position]] = {}
        self._done: dict[str, int] = {}
        self.finished: set[Position] = set()
        self.dead: set[Position] = set()
        #: Finished, without the broker knowing: these may be attempted again.
        self.unknown: set[Position] = set()
        self.attempts: Counter[Position] = Counter()
        self._counted: Counter[Position] = Counter()
        #: How often each was negatively acknowledged without an attempt, which the broker counts.
        self.vain: Counter[Position] = Counter()
        #: How often what was known of each one's attempts got lost.
        self.forgotten: Counter[Position] = Counter()
        self._taken_back: Counter[Position] = Counter()
        #: When a worker joined last.
        self.joined_at = 0.0
        self.under_way: dict[str, list[Attempt]] = {}
        self._finished_by: dict[tuple[int, Position], float] = {}
        #: Who gave it up, as long as the broker has sent it to nobody else since.
        self._given_up_by: dict[Position, int] = {}
        #: No key can move.
        self.is_alone = True
        #: Workers left, so that keys can come back to where they were.
        self.is_left = False
        #: Something went wrong.
        self.is_disturbed = False
        #: When the next attempt of each one that failed is due, and what was forgotten by then.
        self._due: dict[Position, tuple[float, int]] = {}
        #: Users that are held, each with the event that it is held for.
        self.held: dict[str, Position] = {}
        self.overlaps = self.repeated = self.exhausted = self.diverted = self.passed = 0

    def publish(self, user: str, position: Position) -> None:
        self.users.setdefault(user, []).append(position)
        self._done.setdefault(user, 0)
        self.under_way.setdefault(user, [])

    def start(self, attempt: Attempt, *, is_member: bool, is_connected: bool) -> None:
        """An attempt begins."""
        user, position = attempt.user, attempt.position
        what = f"{attempt.worker} starts {position} of {user}"
        if self._first_unfinished(user) < position:
            self.breaks(f"{what} before {self._first_unfinished(user)}")
        if self.held.get(user, position) < position:
            self.breaks(f"{what}, who is held since {self.held[user]}")
        if not is_connected:
            self.breaks(f"{what} without a connection")
        if not is_member:
            self.breaks(f"{what} though the broker has let go of it")
        if position in self.finished:
            self._repeat(attempt, what)
        for other in self.under_way[user]:
            is_excused = attempt.is_orphaned or other.is_orphaned
            if not is_excused or other.process == attempt.process:
                self.breaks(f"{what} while {other.worker} is at {other.position}")
            self.overlaps += 1
        self._check_policy(attempt, what)
        self._check_number(attempt, what)
        self.attempts[position] += 1
        self.under_way[user].append(attempt)

    def divert(self, attempt: Attempt) -> None:
        """It is given up untried, because its user is held; in order, like an attempt."""
        self.diverted += 1
        first = self._first_unfinished(attempt.user)
        if first < attempt.position:
            self.breaks(f"{attempt.worker} gives {attempt.position} up untried before {first}")
        self.give_up(attempt)

    def hold(self, attempt: Attempt) -> None:
        """It was said that the user is held; if its event may be another's by now it may not be."""
        if not attempt.is_orphaned:
            self.held.setdefault(attempt.user, attempt.position)

    def _check_policy(self, attempt: Attempt, what: str) -> None:
        """Not before its delay is over, and never when it was given up."""
        due_at, forgotten = self._due.get(attempt.position, (0.0, 0))
        if self._clock() < due_at - ROUNDING_S and forgotten == self.forgotten[attempt.position]:
            self.breaks(f"{what} before {due_at - 1000:.3f} s")
        if self._given_up_by.get(attempt.position) == attempt.process:
            self.breaks(f"{what}, which it has given up itself")

    def _check_number(self, attempt: Attempt, what: str) -> None:
        """As many attempts as were made, but for what was forgotten or given back in vain."""
        position = attempt.position
        number = attempt.entry.attempt if attempt.entry else 1
        real = self.attempts[position] + 1
        most = real + self._untold(position)
        if self._clock() - self.joined_at < JOINING_S:
            most += self._taken_back[position]
        # A worker that has finished something of the user may take what comes next for new.
        least = 1 if self.is_left or self.is_disturbed else real
        if not least <= number <= most:
            self.breaks(f"{what} as attempt {number}, not {least} to {most}")

    def _untold(self, position: Position) -> int:
        """How many redeliveries, at most, may be taken for attempts that were none."""
        if self.pages or self.is_left or self.is_disturbed:
            # What looks like the redelivery of an attempt may be another one, where it got lost.
            return self.vain[position] + self.forgotten[position]
        return 0

    def _repeat(self, attempt: Attempt, what: str) -> None:
        """Of an event that is finished, without the broker knowing."""
        self.repeated += 1
        position = attempt.position
        if position not in self.unknown:
            self.breaks(f"{what} again")
        done_at = self._finished_by.get((attempt.process, position))
        if done_at is not None and self._clock() - done_at < REMEMBERED_S:
            self.breaks(f"{what} again, which it has finished itself")

    def end(self, attempt: Attempt) -> None:
        self.under_way[attempt.user].remove(attempt)

    def fail(self, attempt: Attempt, delay_s: float) -> None:
        """The next attempt is due after the delay, as long as anybody knows of this one."""
        position = attempt.position
        if attempt.is_orphaned:
            return
        self._due[position] = (self._clock() + delay_s, self.forgotten[position])

    def spare(self, attempt: Attempt) -> None:
        """It is not to count."""
        self.attempts[attempt.position] -= 1

    def take_back(self, attempt: Attempt) -> None:
        """It is not to count after all; who joins just when it is given back may not hear of it."""
        self.spare(attempt)
        self._taken_back[attempt.position] += 1

    def finish(self, attempt: Attempt, *, is_dead: bool = False) -> None:
        """The destination took it, or the dead-letter topic confirmed it."""
        self.finished.add(attempt.position)
        self._due.pop(attempt.position, None)
        self._finished_by[attempt.process, attempt.position] = self._clock()
        if is_dead:
            self.dead.add(attempt.position)
        if attempt.is_orphaned:
            self.unknown.add(attempt.position)

    def give_up(self, attempt: Attempt) -> None:
        """Its worker attempts it no more, whatever becomes of its way to the dead letters."""
        self._given_up_by[attempt.position] = attempt.process

    def send(self, process: int, position: Position) -> None:
        """The broker sends it to this worker, which decides on it from now on."""
        if self._given_up_by.get(position, process) != process:
            del self._given_up_by[position]

    def bury(self, attempt: Attempt, *, is_others: bool) -> None:
        """It is sent to the dead-letter topic; again only as long as it is its worker's."""
        attempt.burials += 1
        if is_others and attempt.burials > 1 and attempt.position not in self.finished:
            what = f"{attempt.worker} dead-letters {attempt.position} again"
            self.breaks(f"{what}, which is not its own any more")

    def forget_counts(self) -> None:
        """The broker counts redeliveries from 0 again."""
        for positions in self.users.values():
            self.forgotten.update(positions)

    def orphan(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            attempt.is_orphaned = True
            self.forgotten[attempt.position] += 1

    def give_back(self, positions: Iterable[Position]) -> None:
        """The broker counts these once more, whether they were attempted or not."""
        for position in positions:
            if self._counted[position] < self.attempts[position]:
                self._counted[position] += 1
            else:
                self.vain[position] += 1

    def acknowledge(self, position: Position) -> None:
        """The broker was told that it is done."""
        if position not in self.finished:
            self.breaks(f"{position} is acknowledged and not done")

    def exhaust(self, attempt: Attempt) -> None:
        """The retry policy gives it up: it was attempted often enough.

        As often as the policy says, and no more. But each time that its worker went, lost the
        connection or passed it on by accident, and each time that the broker's counts restart, it
        may begin anew. And where payloads are fetched, or more happens than joins, it may have had
        fewer: one for each time that it was given back without an attempt, which a new owner can't
        always tell from one.
        """
        self.exhausted += 1
        position, real = attempt.position, self.attempts[attempt.position]
        most = self.max_attempts * (1 + self.forgotten[position])
        least = self.max_attempts
        least = max(1, least - self._untold(position))
        if not least <= real <= most:
            self.breaks(f"{position} is given up after {real} attempts, not {least} to {most}")

    def check_all_done(self) -> None:
        for user, positions in self.users.items():
            missing = [p for p in positions if p not in self.finished]
            if missing:
                self.breaks(f"{missing} of {user} are lost")

    def breaks(self, what: str) -> None:
        raise PromiseBrokenError(f"at {self._clock() - 1000:.3f} s: {what}")

    def _first_unfinished(self, user: str) -> Position:
        positions, done = self.users[user], self._done[user]
        while done < len(positions) and positions[done] in self.finished:
            done += 1
        self._done[user] = done
        return positions[done] if done < len(positions) else (1 << 60, 0, 0)
