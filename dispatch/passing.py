"""Events that need no lane: at a destination that answers at once, in the moment they arrive.

A short cut, and nothing else: such an event would open a lane, have its turn and leave, all in one
step. It is taken only where that is sure. Of its user nothing is here, so nothing is overtaken;
something of the user was finished here lately, so nothing earlier is on its way; and nobody waits
for a turn. What fails gets a lane after all, and what comes next of its user stands behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dispatch.commands import Commands
from dispatch.lane import Entry
from dispatch.options import LaneOptions
from dispatch.partition import Partitions
from dispatch.turns import Turns
from keylane.broker import Received
from keylane.names import WHOLE


class Passing:
    """One worker's. Whoever attempts what it chooses does so before anything else happens.

    `arrive` puts an event into its lane.
    """

    def __init__(
        self,
        options: LaneOptions,
        partitions: Partitions,
        commands: Commands,
        turns: Turns,
        arrive: Callable[[int, Received, float], None],
    ) -> None:
        self._options = options
        self._partitions = partitions
        self._commands = commands
        self._turns = turns
        self._arrive = arrive

    def is_open(self, number: int, now: float) -> bool:
        """Whether anything of the partition may pass; `now` must be read anew."""
        partition, options = self._partitions[number], self._options
        if number == WHOLE or options.holding.is_on or self._turns.can_start:
            return False
        is_settled = partition.connected_s >= options.fresh_s
        return is_settled and partition.is_sure(now, options.freeze_s, options.lease_s)

    def choose(
        self, number: int, messages: Sequence[Received], limit: int
    ) -> tuple[Sequence[Received], Sequence[Received]]:
        """Those that may be attempted now, one of each user at most, and the rest in its order."""
        partition = self._partitions[number]
        lanes = partition.lanes
        known, known_before = partition.known.generations()
        finished, finished_before = partition.finished.generations()
        notes = partition.notes
        chosen: list[Received] = []
        rest: list[Received] = []
        seen: set[str] = set()
        for message in messages[:limit]:
            key, position = message.key, message.position
            # What is behind another one of its user waits, whatever becomes of that.
            if key in seen:
                rest.append(message)
                continue
            seen.add(key)
            if (
                not message.redelivery_count
                and (key in known or key in known_before)
                and key not in lanes
                and not (position in finished or position in finished_before)
                and position not in notes
            ):
                chosen.append(message)
            else:
                rest.append(message)
        rest += messages[limit:]
        return chosen, rest

    def finish(self, number: int, messages: Sequence[Received]) -> None:
        """They are delivered."""
        partition = self._partitions[number]
        partition.finished.put_all([message.position for message in messages], None)
        partition.known.put_all([message.key for message in messages], None)
        self._commands.acknowledge.setdefault(number, []).extend(messages)

    def keep(self, number: int, message: Received, now: float) -> Entry:
        """It was attempted and is not delivered: as if it had had its turn in a lane.

        What the attempt came to is to be told of the entry.
        """
        self._arrive(number, message, now)
        lane = self._partitions[number].lanes[message.key]
        self._turns.start(lane, now)
        return lane.head
