"""Whether a head whose turn has come is attempted, by what was said of its user and of everything.

Pure: what was said goes in, the lanes are told. Who says it is keylane/controlrecord.py's.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import Final, TypeAlias

from dispatch.clearance import Ask
from dispatch.lane import Entry, LaneKey, State
from dispatch.lanes import Lanes
from dispatch.orders import is_end_mark
from keylane.controlrecord import Standing, UserRecord
from keylane.names import WHOLE


class Verdict(Enum):
    """What becomes of a head whose turn has come."""

    ATTEMPT = auto()
    DEAD_LETTER = auto()
    """Untried: its user is held."""
    WAIT = auto()
    """Until the user's earlier events are delivered, or live traffic goes on."""
    END = auto()
    """It is no event: the user's redrive ends with it."""


_AT_WORK: Final = (State.IN_FLIGHT, State.DEAD_LETTERING)
_Place: TypeAlias = tuple[LaneKey, int]


class Admission:
    """Keeps what was said, and the lanes that wait because of it.

    `users` are those that stand otherwise than usual.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.users: dict[str, UserRecord] = {}
        self._waiting: dict[_Place, Ask] = {}

    def verdict(self, entry: Entry) -> Verdict:
        """Of what was just started; the caller acts on it at once."""
        lane = entry.lane
        if lane is None or entry.message is None:
            raise AssertionError("an entry without its message was started")
        record = self.users.get(lane.key) if isinstance(lane.key, str) else None
        if lane.partition == WHOLE:
            if is_end_mark(entry):
                return Verdict.END
            is_held = record is not None and (_is_held(record) or record.has_failed)
        elif self._lanes.partitions.is_live_stopped or _waits(record):
            return Verdict.WAIT
        else:
            is_held = record is not None
        return Verdict.DEAD_LETTER if is_held else Verdict.ATTEMPT

    def counts(self) -> dict[str, int]:
        """Users by how they stand; as usual is left out."""
        standings = Counter(record.standing for record in self.users.values())
        return {standing.value: standings[standing] for standing in Standing}

    def is_anything_said(self) -> bool:
        """Else every live event is attempted, and none has to be looked at."""
        return bool(self.users) or self._lanes.partitions.is_live_stopped

    def put_off(self, entry: Entry) -> None:
        """It waits until something else is said."""
        lane = entry.lane
        if lane is not None:
            self._waiting[lane.key, lane.partition] = self._lanes.put_off(entry)

    def say(self, user: str, record: UserRecord | None, now: float) -> None:
        """How the user stands from now on; None is as usual."""
        if record is None:
            self.users.pop(user, None)
        else:
            self.users[user] = record
        if record is None or _is_held(record):
            for place in [p for p in self._waiting if p[0] == user] if self._waiting else []:
                self._let_go(place, now)

    def stop_live(self, *, is_stopped: bool, now: float) -> None:
        """Attempts start for what is delivered once more only, or for everything again.

        The receive gate is to be set anew.
        """
        if is_stopped is self._lanes.partitions.is_live_stopped:
            return
        self._lanes.partitions.stop_live(is_stopped=is_stopped)
        if not is_stopped:
            for place in list(self._waiting):
                self._let_go(place, now)

    def _let_go(self, place: _Place, now: float) -> None:
        # Whoever has to wait for something else as well is put off again at his turn.
        self._lanes.clear(self._waiting.pop(place), now)

    def is_at_rest(self, user: str) -> bool:
        """Whether nothing live of the user is being attempted or dead-lettered here.

        Nor will be: what could not be dead-lettered so far counts as being so.
        """
        for number, partition in self._lanes.partitions.items():
            lane = partition.lanes.get(user)
            if number != WHOLE and lane is not None and len(lane):
                head = lane.head
                if head.is_condemned or head.state in _AT_WORK:
                    return False
        return True


def _waits(record: UserRecord | None) -> bool:
    return record is not None and record.standing == Standing.WAITING


def _is_held(record: UserRecord) -> bool:
    return record.standing == Standing.HELD
