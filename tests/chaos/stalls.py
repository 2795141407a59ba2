"""How long users waited whose own events never fail."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.judge import Book, DeadAt, Numbered

#: From when to when, on the steady clock.
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stall:
    """An event was accepted and its predecessors done, and still nobody attempted it."""

    user: str
    n: int
    from_: float
    to: float

    @property
    def seconds(self) -> float:
        return self.to - self.from_

    def outside(self, spans: Iterable[Span]) -> float:
        """How much of it no disturbance covers."""
        return self.seconds - sum(
            max(0.0, min(self.to, to) - max(self.from_, from_)) for from_, to in merged(spans)
        )


def stalls(
    book: Book, accepted_at: Mapping[Numbered, float], users: Collection[str], dead_at: DeadAt
) -> Iterator[Stall]:
    """Of every event of these users that was attempted at all."""
    started: dict[Numbered, float] = {}
    done: dict[Numbered, float] = {}
    steady_s = 0.0
    for attempt in book.attempts:
        event = (attempt.user, attempt.n)
        steady_s = attempt.started_at - attempt.wall_s
        started.setdefault(event, attempt.started_at)
        if attempt.is_delivered and attempt.ended_at is not None:
            done.setdefault(event, attempt.ended_at)
    for event, wall_s in dead_at.items():
        done.setdefault(event, wall_s + steady_s)
    free: dict[str, float] = {}
    for user, n in sorted(accepted_at):
        if user in users:
            from_ = max(accepted_at[user, n], free.get(user, 0.0))
            yield Stall(user, n, from_, max(from_, started.get((user, n), from_)))
            free[user] = max(free.get(user, 0.0), done.get((user, n), 0.0))


def merged(spans: Iterable[Span]) -> Iterator[Span]:
    """The same time without counting any of it twice."""
    until = float("-inf")
    for from_, to in sorted(spans):
        if to > until:
            yield max(from_, until), to
            until = to
