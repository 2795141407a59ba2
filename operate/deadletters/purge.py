"""Dead letters given up for good, and users let go on without them."""

from __future__ import annotations

from dataclasses import dataclass, field

from keylane.controlrecord import About, Key, Standing
from keylane.questions import Kind
from operate.controlsession import CONFIRM_WITHIN_S, ControlSession, workers_of
from operate.deadletters.filters import Filters
from operate.deadletters.groups import Groups
from operate.deadletters.letter import Place
from operate.deadletters.plan import without_torn
from operate.deadletters.run import user_records
from operate.deadletters.session import Looking, Taking
from operate.progress import Tell

#: Acknowledged between two words on how far it is.
_AT_ONCE = 5_000


@dataclass(slots=True)
class Marked:
    """What a purge would take: `left` are the users of whom it leaves dead letters behind.

    `torn` share an entry with others that are not to be purged, so they stay.
    """

    places: list[Place]
    groups: Groups
    torn: int
    left: dict[str, int] = field(default_factory=dict)


async def mark(found: Looking, filters: Filters) -> Marked:
    """Read what matches; nothing is changed."""
    letters, others = [], Groups()
    async for letter in found.view.letters():
        if filters.match(letter):
            letters.append(letter.bare())
        else:
            others.add(letter)
    whole, torn = without_torn(letters, found.view.batches)
    groups = Groups()
    for letter in whole:
        groups.add(letter)
    left = {group.user: group.count for group in others.largest() if group.user in groups.users}
    return Marked([letter.place for letter in whole], groups, torn, left)


async def purge(taking: Taking, marked: Marked, tell: Tell) -> None:
    """Acknowledge them; the broker shows it when this returns. Raises `BrokerError`."""
    places = marked.places
    for start in range(0, len(places), _AT_ONCE):
        await taking.acknowledge(places[start : start + _AT_ONCE])
        tell(min(start + _AT_ONCE, len(places)), len(places))
    await taking.confirm(places)


def held_users(control: ControlSession, destination: str) -> set[str]:
    """Whose later events follow into the dead letters."""
    records = user_records(control.of(destination, About.USER))
    return {user for user, record in records.items() if record.standing == Standing.HELD}


@dataclass(frozen=True, slots=True)
class Released:
    """How a user stood, None for as usual, and the workers that have not said that they know."""

    user: str
    stood: str | None
    unconfirmed: tuple[str, ...] = ()


async def release(found: Looking, control: ControlSession, user: str) -> Released:
    """Let live events of a user go on, whatever of it lies in the dead letters."""
    key = Key(found.destination, About.USER, user)
    value = control.kept.get(str(key))
    if value is None:
        return Released(user, None)
    record = user_records({user: value}).get(user)
    await control.take_back(key)
    workers = await workers_of(found.admin, found.settings.topic, found.destination)
    expected = {(found.destination, worker) for worker in workers}
    answers = []
    if expected:
        answers = await control.asker.ask(
            Kind.APPLIED, found.destination, expected, CONFIRM_WITHIN_S, key=str(key), token=""
        )
    missing = workers - {str(answer["worker"]) for answer in answers}
    return Released(user, record.standing if record else "unknown", tuple(sorted(missing)))
