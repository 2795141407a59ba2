"""What comes out of the lanes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from dispatch.clearance import Ask
from dispatch.lane import Entry
from keylane.broker import Position, Received


class Note(NamedTuple):
    """What only this worker knows of an event, for the one that gets it next.

    When its redelivery count is `redeliveries`, it has been attempted `attempts` times. The broker
    counts also what was given back without an attempt, and doesn't know of retries from memory.
    """

    position: Position
    redeliveries: int
    attempts: int

    def attempts_at(self, redeliveries: int) -> int:
        """How often it has been attempted when its redelivery count is another one."""
        return max(0, self.attempts + redeliveries - self.redeliveries)


@dataclass(slots=True)
class Commands:
    """What the shell is to do, by partition."""

    acknowledge: dict[int, list[Received]] = field(default_factory=dict)
    negative_acknowledge: dict[int, list[Position]] = field(default_factory=dict)
    dead_letter: list[Entry] = field(default_factory=list)
    notes: list[tuple[int, Note]] = field(default_factory=list)
    """To be told to the other workers, each with its partition."""
    ask: list[Ask] = field(default_factory=list)
    """Lanes whose turn needs leave."""

    def take(self) -> Commands:
        """What has come together; nothing is left."""
        taken = Commands(
            self.acknowledge, self.negative_acknowledge, self.dead_letter, self.notes, self.ask
        )
        self.acknowledge, self.negative_acknowledge = {}, {}
        self.dead_letter, self.notes, self.ask = [], [], []
        return taken
