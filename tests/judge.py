"""Whether a destination was served in order: the book of its attempts, and the verdict on it.

Pure: no clock, no network. A destination notes when an attempt starts and ends; judging replays the
book. What is flagged, for an attempt of a user's n-th event:

- inversion: some earlier event of the user was neither answered 2xx nor dead-lettered by then;
- overlap: another attempt of the user was running, told for each that was;
- duplicate: the very same stored event had been answered 2xx, or dead-lettered, before;
- gap: an event that neither was, though a later one was attempted.

An event that its sender stored twice (it never learnt of the first) is no duplicate of itself: the
two have different positions on the topic.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TypeAlias

from typing_extensions import override

#: A user's n-th event.
Numbered: TypeAlias = tuple[str, int]
#: When events were dead-lettered, in seconds since 1970.
DeadAt: TypeAlias = Mapping[Numbered, float]

#: An acknowledgement leaves the client within 0.1 s; what a killed process had not sent by then
#: comes again.
ACKNOWLEDGED_WITHIN_S = 0.5
#: The broker's times are cut to milliseconds, so the attempt that led to a dead letter may seem to
#: have started after it.
DEAD_AT_RESOLUTION_S = 0.001
#: A request that the killed process had sent may be read only so much later, on a busy machine.
ON_ITS_WAY_S = 0.3


@dataclass(slots=True, eq=False)
class Attempt:
    """One request. `started_at` and `ended_at` are of a steady clock, `wall_s` since 1970."""

    user: str
    n: int
    #: The number that the sender gave this attempt.
    number: int = 1
    #: How many attempts of this event were seen here, this one included.
    seen: int = 1
    position: str = ""
    started_at: float = 0.0
    wall_s: float = 0.0
    ended_at: float | None = None
    #: What it was answered; 0 if it never was.
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Which worker sent it, where workers were given addresses of their own to tell.
    sender: str = ""

    @property
    def is_delivered(self) -> bool:
        return 200 <= self.status < 300

    @override
    def __repr__(self) -> str:
        end = "running" if self.ended_at is None else f"{self.ended_at:.3f} {self.status}"
        by = f" by {self.sender}" if self.sender else ""
        return f"<{self.user} {self.n} attempt {self.number}{by}, {self.started_at:.3f} to {end}>"


class Wrong(StrEnum):
    INVERSION = "inversion"
    OVERLAP = "overlap"
    DUPLICATE = "duplicate"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Flag:
    """What is wrong with an attempt; `earlier` is the one that it collides with."""

    wrong: Wrong
    user: str
    n: int
    attempt: Attempt | None = None
    earlier: Attempt | None = None
    #: Of an inversion: the earlier event that was not done.
    missing: int = 0

    def is_explained_by(self, moments: Iterable[float], within_s: float) -> bool:
        """Whether a disturbance cut off what it collides with, or what it had brought.

        An inversion and a gap are never explained.
        """
        earlier = self.earlier
        if earlier is None or self.wrong in (Wrong.INVERSION, Wrong.GAP):
            return False
        ended_at = float("inf") if earlier.ended_at is None else earlier.ended_at
        return any(earlier.started_at - ON_ITS_WAY_S <= at <= ended_at + within_s for at in moments)


@dataclass(frozen=True, slots=True)
class Verdict:
    flags: tuple[Flag, ...]
    #: Attempts of what had been delivered before as another stored event.
    resent: int

    def of(self, wrong: Wrong) -> list[Flag]:
        return [flag for flag in self.flags if flag.wrong is wrong]

    def unexplained(
        self, disturbances: Iterable[float] = (), within_s: float = ACKNOWLEDGED_WITHIN_S
    ) -> list[Flag]:
        """All flags but overlaps and duplicates of what was cut off at these moments."""
        moments = list(disturbances)
        return [flag for flag in self.flags if not flag.is_explained_by(moments, within_s)]

    @override
    def __str__(self) -> str:
        counts = Counter(flag.wrong for flag in self.flags)
        return ", ".join(f"{counts[wrong]} {wrong}" for wrong in Wrong)


class Book:
    """Every attempt in the order in which attempts started and ended."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.delivered: set[Numbered] = set()
        self._log: list[Attempt] = []
        self._seen: Counter[Numbered] = Counter()

    def start(self, attempt: Attempt) -> None:
        event = (attempt.user, attempt.n)
        self._seen[event] += 1
        attempt.seen = self._seen[event]
        self.attempts.append(attempt)
        self._log.append(attempt)

    def end(self, attempt: Attempt, at: float, status: int) -> None:
        """`status` 0 says that it was never answered."""
        attempt.ended_at = at
        attempt.status = status
        self._log.append(attempt)
        if attempt.is_delivered:
            self.delivered.add((attempt.user, attempt.n))

    def of(self, user: str, n: int | None = None) -> list[Attempt]:
        return [a for a in self.attempts if a.user == user and n in (None, a.n)]

    def verdict(self, dead_at: DeadAt | None = None) -> Verdict:
        dead = dead_at or {}
        benches: dict[str, _Bench] = defaultdict(lambda: _Bench(dead))
        flags: list[Flag] = []
        started: set[int] = set()
        for attempt in self._log:
            bench = benches[attempt.user]
            if id(attempt) in started:
                bench.end(attempt)
            else:
                started.add(id(attempt))
                flags.extend(bench.start(attempt))
        for bench in benches.values():
            flags.extend(bench.gaps())
        return Verdict(tuple(flags), sum(bench.resent for bench in benches.values()))

    def spacings_s(self, user: str, n: int) -> list[float]:
        """From the end of each attempt of an event to the start of the next."""
        pairs = pairwise(self.of(user, n))
        return [b.started_at - a.ended_at for a, b in pairs if a.ended_at is not None]

    def longest_stall_s(self) -> tuple[float, str]:
        """The longest that any user with events to come waited from one attempt to the next."""
        at: dict[str, float] = {}
        longest = (0.0, "")
        for attempt in self.attempts:
            before = at.get(attempt.user, attempt.started_at)
            longest = max(longest, (attempt.started_at - before, attempt.user))
            at[attempt.user] = attempt.started_at
        return longest

    @override
    def __str__(self) -> str:
        if not self.attempts:
            return "no attempt"
        took_s = self.attempts[-1].started_at - self.attempts[0].started_at
        stall_s, user = self.longest_stall_s()
        return (
            f"{len(self.delivered)} delivered in {len(self.attempts)} attempts and {took_s:.2f} s "
            f"({len(self.delivered) / (took_s or 1):.0f}/s), longest stall {stall_s:.2f} s ({user})"
        )


class _Bench:
    """Judges one user's attempts as they come."""

    def __init__(self, dead_at: DeadAt) -> None:
        self._dead_at = dead_at
        self._running: list[Attempt] = []
        self._delivered: dict[int, list[Attempt]] = defaultdict(list)
        #: When each stored event with a number was attempted first.
        self._seen: dict[int, dict[str, float]] = defaultdict(dict)
        self._undone_from = 1
        self._highest = 0
        self._user = ""
        self.resent = 0

    def start(self, attempt: Attempt) -> Iterator[Flag]:
        user, n = attempt.user, attempt.n
        self._user = user
        self._highest = max(self._highest, n)
        missing = next(self._undone_before(n, attempt.wall_s), None)
        if missing is not None:
            yield Flag(Wrong.INVERSION, user, n, attempt, missing=missing)
        # One for each, as what explains one of them may not explain another.
        for running in self._running:
            yield Flag(Wrong.OVERLAP, user, n, attempt, running)
        same = [a for a in self._delivered[n] if a.position == attempt.position]
        self._seen[n].setdefault(attempt.position, attempt.wall_s)
        is_dead = self._is_dead(n, attempt.wall_s - DEAD_AT_RESOLUTION_S)
        if same or (is_dead and not self._is_another(attempt)):
            yield Flag(Wrong.DUPLICATE, user, n, attempt, same[-1] if same else None)
        elif self._delivered[n] or is_dead:
            self.resent += 1
        self._running.append(attempt)

    def _is_another(self, attempt: Attempt) -> bool:
        """Whether it was another stored event with the same number that was dead-lettered."""
        dead_at = self._dead_at[self._user, attempt.n] + DEAD_AT_RESOLUTION_S
        seen = self._seen[attempt.n]
        others = (at for position, at in seen.items() if position != attempt.position)
        return seen[attempt.position] > dead_at and any(at <= dead_at for at in others)

    def end(self, attempt: Attempt) -> None:
        self._running.remove(attempt)
        if attempt.is_delivered:
            self._delivered[attempt.n].append(attempt)

    def gaps(self) -> Iterator[Flag]:
        for n in self._undone_before(self._highest, float("inf")):
            yield Flag(Wrong.GAP, self._user, n)

    def _undone_before(self, n: int, wall_s: float) -> Iterator[int]:
        while self._undone_from < n and self._is_done(self._undone_from, wall_s):
            self._undone_from += 1
        return (m for m in range(self._undone_from, n) if not self._is_done(m, wall_s))

    def _is_done(self, n: int, wall_s: float) -> bool:
        return bool(self._delivered[n]) or self._is_dead(n, wall_s)

    def _is_dead(self, n: int, wall_s: float) -> bool:
        at = self._dead_at.get((self._user, n))
        return at is not None and at <= wall_s
