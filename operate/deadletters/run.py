"""What is kept of a redrive, so that one that was killed is finished by the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import orjson

from keylane.controlrecord import Standing, UserRecord, as_json
from keylane.errors import ContractError
from keylane.place import EntryId
from operate.deadletters.filters import Filters
from operate.deadletters.letter import DeadLetter
from operate.deadletters.plan import as_data, is_upto


@dataclass(frozen=True, slots=True)
class Run:
    """The record under `DESTINATION/redrive`.

    `through` is where each partition of the dead-letter topic ended when the run had read it; None
    before that, when nothing was sent yet. What comes later may be an event of this very run that
    failed again. Of the users in `whole`, which were held, every dead letter goes.
    """

    token: str
    filters: Filters
    at: str
    whole: tuple[str, ...] = ()
    through: Mapping[int, EntryId] | None = None
    finished: str = ""

    def concerns(self, letter: DeadLetter) -> bool:
        return (letter.user in self.whole or self.filters.match(letter)) and (
            self.through is None or is_upto(letter.place, self.through)
        )

    def encoded(self) -> bytes:
        through = None if self.through is None else as_data(self.through)
        return orjson.dumps(
            {
                "token": self.token,
                "filters": self.filters.as_data(),
                "at": self.at,
                "whole": self.whole,
                "through": through,
                "finished": self.finished,
            }
        )

    @classmethod
    def decoded(cls, value: bytes) -> Self:
        """Raises `ContractError`: anybody may publish there."""
        found = as_json(value)
        try:
            through = found["through"]
            return cls(
                token=str(found["token"]),
                filters=Filters.of(found["filters"]),
                at=str(found["at"]),
                whole=tuple(map(str, found["whole"])),
                through=through and {int(k): EntryId(*map(int, v)) for k, v in through.items()},
                finished=str(found["finished"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError(f"this is no record of a redrive: {error!r}") from error


def user_records(kept: Mapping[str, bytes]) -> dict[str, UserRecord]:
    """How the users stand; what can't be read counts for nothing, as it does for workers."""
    found = {}
    for user, value in kept.items():
        try:
            found[user] = UserRecord.decoded(value)
        except ContractError:
            continue
    return found


def is_held(record: UserRecord | None, token: str) -> bool:
    """Whether the user was held when the redrive with this token came, or is."""
    if record is None:
        return False
    if record.standing == Standing.WAITING:
        # What began the hold stands in its record until the end of the redrive.
        return record.token == token and bool(record.reason or record.position)
    return record.standing == Standing.HELD


def waits_for(record: UserRecord | None, token: str) -> bool:
    return record is not None and record.standing == Standing.WAITING and record.token == token


def waits_for_another(record: UserRecord | None, token: str) -> bool:
    return record is not None and record.standing == Standing.WAITING and record.token != token


def awaited_by(records: Mapping[str, UserRecord], token: str) -> Collection[str]:
    """The users that wait for the end of this redrive."""
    return {user for user, record in records.items() if waits_for(record, token)}
