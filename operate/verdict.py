"""What became of events, judged by what arrived: pure, values in and values out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that was accepted."""

    id: str
    user: str
    payload: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as the destination saw it, and whether it took the event."""

    id: str
    user: str
    is_taken: bool


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event on the dead-letter topic, with what stands on it."""

    id: str
    reason: str
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Row:
    """One user at one destination; events are named by their payloads."""

    user: str
    destination: str
    delivered: list[str]
    retried: int
    dead_lettered: list[str]
    in_order: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one destination got, in the order in which it came, and its dead letters."""

    destination: str
    attempts: Sequence[Attempt]
    dead_letters: Sequence[DeadLetter]

    def unsettled(self, sent: Iterable[Sent]) -> list[Sent]:
        """The events that are neither delivered nor dead-lettered."""
        settled = {a.id for a in self.attempts if a.is_taken} | {d.id for d in self.dead_letters}
        return [event for event in sent if event.id not in settled]

    def rows(self, sent: Sequence[Sent]) -> list[Row]:
        """One row a user, by name."""
        return [self._row(user, [s for s in sent if s.user == user]) for user in users_of(sent)]

    def _row(self, user: str, sent: Sequence[Sent]) -> Row:
        names = {event.id: event.payload for event in sent}
        attempts = [a for a in self.attempts if a.user == user]
        dead = {d.id: d for d in self.dead_letters if d.id in names}
        return Row(
            user=user,
            destination=self.destination,
            delivered=[names.get(a.id, a.id) for a in attempts if a.is_taken],
            # An attempt after the first of its event, wherever it stands.
            retried=len(attempts) - len({a.id for a in attempts}),
            dead_lettered=[
                f"{names[d.id]}: {d.reason} ({d.attempts} attempts, {d.last_error})"
                for d in dead.values()
            ],
            in_order=is_in_order([event.id for event in sent], attempts, dead.keys()),
        )


def users_of(sent: Iterable[Sent]) -> list[str]:
    return sorted({event.user for event in sent})


def is_in_order(sent: Sequence[str], attempts: Sequence[Attempt], dead: Iterable[str]) -> bool:
    """Whether all of one user's events came one after the other, each settled before the next.

    An event is settled once it was taken, or is a dead letter and not tried again.
    """
    dead = set(dead)
    waiting = list(sent)
    for event, group in groupby(attempts, key=lambda attempt: attempt.id):
        taken = [attempt.is_taken for attempt in group]
        if not waiting or waiting.pop(0) != event:
            return False
        # Taken by the last attempt only, or given up after all of them failed.
        if any(taken[:-1]) or (not taken[-1] and event not in dead):
            return False
    return not waiting


#: A destination, a user, and the event's payload.
Case: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is to become of events that are not simply delivered at the first attempt.

    `dead_letters` gives the reason, `attempts` how many there are to be.
    """

    dead_letters: Mapping[Case, str]
    attempts: Mapping[Case, int]

    def unmet(self, sent: Sequence[Sent], evidence: Evidence) -> Iterator[str]:
        """What is not as promised at one destination, in sentences."""
        dead = {letter.id: letter.reason for letter in evidence.dead_letters}
        for event in sent:
            case = (evidence.destination, event.user, event.payload)
            what = f"{event.user}'s {event.payload} at {evidence.destination}"
            attempts = [a for a in evidence.attempts if a.id == event.id]
            times = sum(attempt.is_taken for attempt in attempts)
            reason = self.dead_letters.get(case)
            if times != (0 if reason else 1):
                yield f"{what} was delivered {times} times"
            if dead.get(event.id) != reason:
                yield f"{what} is dead-lettered for {dead.get(event.id)}, expected is {reason}"
            if len(attempts) != self.attempts.get(case, 1):
                yield f"{what} took {len(attempts)} attempts"
        yield from (
            f"{row.user}'s events came to {row.destination} out of order"
            for row in evidence.rows(sent)
            if not row.in_order
        )
