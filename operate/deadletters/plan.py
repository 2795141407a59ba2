"""What a redrive sends, in which order and under which numbers: decided before anything is sent."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keylane.place import EntryId
from operate.deadletters.letter import DeadLetter, Number, Place, number_of

#: No broker is set to take less. One that took a dead letter may not take it as it is sent now.
LARGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Resend:
    """One event, sent once. `places` are those of all its dead letters.

    A crash can make two of one event. `is_last` of its user: an end mark follows.
    """

    number: Number
    letter: DeadLetter
    places: tuple[Place, ...]
    is_last: bool

    @property
    def end_number(self) -> int:
        """Under which the end mark is stored once, right behind."""
        return self.number.value + 1


@dataclass(frozen=True, slots=True)
class Figures:
    """`foreign` are those that name no place on the main topic."""

    dead_letters: int
    events: int
    users: int
    duplicates: int
    foreign: int

    @classmethod
    def of(cls, plan: Sequence[Resend]) -> Figures:
        letters = sum(len(one.places) for one in plan)
        return cls(
            dead_letters=letters,
            events=len(plan),
            users=sum(one.is_last for one in plan),
            duplicates=letters - len(plan),
            foreign=sum(one.letter.origin is None for one in plan),
        )


def plan_of(letters: Iterable[DeadLetter]) -> list[Resend]:
    """Each event once, those of one partition in their original order.

    A user's events lie in one partition, so the partitions follow one another. Where partitions
    were added a user may have some in several: then the time at which they were accepted decides.
    What names no place on the main topic comes last, in the order of the dead letters.
    """
    same: dict[Number, list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        same[number_of(letter.origin, letter.place)].append(letter)
    groups: dict[str, list[Number]] = defaultdict(list)
    for number in sorted(same):
        groups[number.publisher].append(number)
    ordered = _merged(groups, {number: found[0] for number, found in same.items()})
    last = {same[number][0].user: number for number in ordered}
    return [
        Resend(
            number=number,
            letter=same[number][0],
            places=tuple(letter.place for letter in same[number]),
            is_last=last[same[number][0].user] == number,
        )
        for number in ordered
    ]


def _merged(
    groups: Mapping[str, list[Number]], letters: Mapping[Number, DeadLetter]
) -> list[Number]:
    homes = Counter(
        user for group in groups.values() for user in {letters[number].user for number in group}
    )

    def keyed(publisher: str) -> Iterator[tuple[tuple[bool, int], str, Number]]:
        is_foreign, time_ms = not publisher.isdecimal(), 0
        for number in groups[publisher]:
            letter = letters[number]
            # Only who is in several makes one wait for another.
            if homes[letter.user] > 1:
                time_ms = max(time_ms, letter.event_at_ms)
            yield (is_foreign, time_ms), publisher, number

    return [number for *_, number in heapq.merge(*map(keyed, sorted(groups)))]


def batches(plan: Iterable[Resend], at_most: int) -> Iterator[list[Resend]]:
    """Neighbours of one publisher, so many at most, and what is large by itself.

    Within a batch what comes later may be stored though an earlier one was too large for that, and
    the publisher's last number would speak for both.
    """
    batch: list[Resend] = []
    for one in plan:
        is_large = len(one.letter.content.value()) > LARGE_BYTES
        if batch and (
            is_large or len(batch) == at_most or one.number.publisher != batch[0].number.publisher
        ):
            yield batch
            batch = []
        batch.append(one)
        if is_large:
            yield batch
            batch = []
    if batch:
        yield batch


def without_torn(
    letters: Iterable[DeadLetter], batches: Mapping[tuple[int, EntryId], int]
) -> tuple[list[DeadLetter], int]:
    """Leave out those of a shared entry that is not concerned as a whole; and how many those are.

    The broker takes an acknowledgement for all messages that a producer has batched.
    """
    found = list(letters)
    concerned = Counter(one.place.entry for one in found if one.place.is_shared)
    torn = {entry for entry, count in concerned.items() if count < batches.get(entry, 0)}
    whole = [one for one in found if one.place.entry not in torn]
    return whole, len(found) - len(whole)


def is_upto(place: Place, through: Mapping[int, EntryId]) -> bool:
    """Whether it was there when that reading ended."""
    end = through.get(place.part)
    return end is not None and EntryId.of(place.position) <= end


def as_data(through: Mapping[int, EntryId]) -> dict[str, Any]:
    return {str(part): list(entry) for part, entry in through.items()}
