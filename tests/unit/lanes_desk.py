"""Lanes with a clock at hand, for tests of one rule at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dispatch.clearance import Ask
from dispatch.commands import Note
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from tests.unit.lanes_world import verify


@dataclass
class Arrival:
    """A message as the lanes see it."""

    key: str
    number: int
    redelivery_count: int = 0
    event_time_ms: int = 0
    publish_time_ms: int = 0

    @property
    def position(self) -> tuple[int, int, int]:
        return (1, self.number, -1)

    def value(self) -> bytes:
        return b""

    def properties(self) -> dict[str, str]:
        return {}


class Desk:
    """Lanes of one partition with a clock at hand."""

    def __init__(self, *, verifies: bool = True, **options: Any) -> None:
        self.verifies = verifies
        #: The broker answers whatever it is asked.
        self.is_answered = True
        # Short, so that tests of how many proofs are needed are.
        short = {"quiet_s": 0.25, "proofs": 2, "meet_s": 0.0}
        self.lanes = Lanes(LaneOptions(**(short | options)))
        self.now = 0.0
        self.lanes.connect(0, self.now)
        self.running: dict[int, Entry] = {}
        self.acknowledged: list[int] = []
        self.returned: list[int] = []
        self.dead: list[Entry] = []
        self.notes: list[Note] = []
        self.asks: list[Ask] = []
        # Past the time in which everything that opens a lane settles.
        self.wait(10)

    def arrive(self, key: str, *numbers: int, count: int = 0) -> None:
        for number in numbers:
            self.lanes.arrive(0, Arrival(key, number, count), self.now)
        self.step()

    def step(self) -> list[int]:
        """Start what may start; the numbers of the events now attempted."""
        if self.is_answered:
            self.lanes.confirm(0, self.now, self.now)
        self.lanes.advance(self.now)
        self.lanes.may_receive(self.now)
        for entry in self.lanes.start_attempts(self.now):
            self.running[entry.position[1]] = entry
        commands = self.lanes.take_commands()
        self.acknowledged += [m.position[1] for m in commands.acknowledge.get(0, ())]
        self.returned += [p[1] for p in commands.negative_acknowledge.get(0, ())]
        self.dead += commands.dead_letter
        self.notes += [note for _, note in commands.notes]
        self.asks += commands.ask
        if self.verifies:
            verify(self.lanes)
        return sorted(self.running)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.02)
            self.step()

    def deliver(self, number: int) -> None:
        self.lanes.acknowledge(self.running.pop(number), self.now)
        self.step()

    def fail(self, number: int, delay_s: float = 1.0) -> None:
        self.lanes.back_off(self.running.pop(number), delay_s, self.now)
        self.step()
