"""The scheduler without broker and destination: messages made up, outcomes decided, time counted.

Takes steps as the worker does, and counts the CPU of each call by what it is for. What the broker
does is played only as far as the scheduler notices it: what is negatively acknowledged comes back.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from dispatch.immediate import IMMEDIATE_BATCH, IMMEDIATE_ROUNDS
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from keylane.broker import Position

#: Events that arrive in one step.
BATCH: Final = IMMEDIATE_BATCH
PARTITIONS: Final = 3
#: Of simulated time between two steps; long, so that what is fetched again is back in the next.
STEP_S: Final = 0.2
_BACK_AFTER_S: Final = 0.15
_CONFIRMED_EVERY_S: Final = 1.0
#: Above every lane's, so that receiving never stops.
_MAX_LANE_EVENTS: Final = 10_000_000

_clock = time.thread_time_ns


class Message:
    """A received message without a payload."""

    __slots__ = ("key", "position", "redelivery_count")
    event_time_ms = 0
    publish_time_ms = 0

    def __init__(self, key: str, position: Position, redelivery_count: int = 0) -> None:
        self.key = key
        self.position = position
        self.redelivery_count = redelivery_count

    def value(self) -> bytes:
        return b""

    def properties(self) -> dict[str, str]:
        return {}


class Users:
    """Users of one kind. Event n is of user n modulo `count`, so that nothing has to be kept."""

    def __init__(self, kind: str, ledger: int, count: int) -> None:
        self._kind = kind
        self._ledger = ledger
        self._count = count
        self._number = 0

    def of(self, user: int) -> tuple[int, Message]:
        """The next event of this user, and its partition."""
        self._number += 1
        position = (self._ledger, self._number * self._count + user, -1)
        return self.again(position, 0)

    def again(self, position: Position, redelivery_count: int) -> tuple[int, Message]:
        user = position[1] % self._count
        return user % PARTITIONS, Message(f"{self._kind}-{user:07d}", position, redelivery_count)

    def is_of(self, position: Position) -> bool:
        return position[0] == self._ledger


class Simulation:
    """One worker. `delay_s` says after how long what failed is tried again; of some users all
    events fail."""

    def __init__(self, healthy: Users, hindered: Users, delay_s: Callable[[], float]) -> None:
        self._lanes = Lanes(LaneOptions(max_lane_events=_MAX_LANE_EVENTS))
        self._healthy = healthy
        self._hindered = hindered
        self._delay_s = delay_s
        self._now = 1_000.0
        self._confirmed_at = self._now
        self._returning: deque[tuple[float, Position]] = deque()
        self._sent: Counter[Position] = Counter()
        self.fails = True
        self.spent_ns: Counter[str] = Counter()
        """By the scheduler, by what for."""
        self.acknowledged = 0
        self.failed = 0
        self.longest_step_ns = 0
        for number in range(PARTITIONS):
            self._lanes.connect(number, self._now)
        self.pass_time(self._lanes.options.fresh_s + 1)

    def pass_time(self, seconds: float) -> None:
        """Nothing arrives for so long."""
        until = self._now + seconds
        while self._now < until:
            self.step([])

    def hold(self, batch: Iterable[tuple[int, Message]]) -> None:
        """Let these arrive without starting anything."""
        self._pass()
        for number, message in batch:
            self._lanes.arrive(number, message, self._now)
        self._lanes.may_receive(self._now)

    def step(self, batch: list[tuple[int, Message]]) -> None:
        """Let these arrive, and do all that the worker does then."""
        self._pass()
        batch = [*self._back(), *batch]
        before = self.spent_ns.total()
        now, lanes = self._now, self._lanes
        began = _clock()
        for number, message in batch:
            lanes.arrive(number, message, now)
        self.spent_ns["arrive"] += _clock() - began
        while self._serve():
            pass
        self.longest_step_ns = max(self.longest_step_ns, self.spent_ns.total() - before)

    def _pass(self) -> None:
        self._now += STEP_S
        if self._now - self._confirmed_at >= _CONFIRMED_EVERY_S:
            self._confirmed_at = self._now
            for number in range(PARTITIONS):
                self._lanes.confirm(number, self._now, self._now)

    def _back(self) -> Iterable[tuple[int, Message]]:
        """What the broker sends again now."""
        while self._returning and self._returning[0][0] <= self._now:
            _, position = self._returning.popleft()
            yield self._users(position).again(position, self._sent[position])

    def _users(self, position: Position) -> Users:
        return self._hindered if self._hindered.is_of(position) else self._healthy

    def _serve(self) -> bool:
        """One step of the worker after the arrivals; True if another one is due at once."""
        now, lanes, spent = self._now, self._lanes, self.spent_ns
        began = _clock()
        lanes.advance(now)
        spent["advance"] += _clock() - began
        is_more = True
        for _ in range(IMMEDIATE_ROUNDS):
            began = _clock()
            started = lanes.start_attempts(now, BATCH)
            spent["start"] += _clock() - began
            if not started:
                is_more = False
                break
            self._finish(started)
        began = _clock()
        commands = lanes.take_commands()
        lanes.may_receive(now)
        lanes.wake_at(now)
        spent["commands, gate, timer"] += _clock() - began
        for positions in commands.negative_acknowledge.values():
            self._sent.update(positions)
            self._returning.extend((now + _BACK_AFTER_S, position) for position in positions)
        return is_more

    def _finish(self, started: list[Entry]) -> None:
        done, failed = started, list[Entry]()
        if self.fails:
            done = [e for e in started if not self._hindered.is_of(e.position)]
            failed = [e for e in started if self._hindered.is_of(e.position)]
        delays = [self._delay_s() for _ in failed]
        now, lanes = self._now, self._lanes
        began = _clock()
        for entry in done:
            lanes.acknowledge(entry, now)
        middle = _clock()
        for entry, delay_s in zip(failed, delays, strict=True):
            lanes.back_off(entry, delay_s, now)
        self.spent_ns["acknowledge"] += middle - began
        self.spent_ns["back off"] += _clock() - middle
        self.acknowledged += len(done)
        self.failed += len(failed)
        for entry in done:
            self._sent.pop(entry.position, None)
