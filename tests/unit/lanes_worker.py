"""One worker process of the lanes' world: its lanes, its client, and both ends of its connection.

The two ends may disagree: a worker that is cut off or frozen believes that it is connected long
after the broker has let go of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from dispatch.commands import Note
from dispatch.lane import Entry, State
from dispatch.lanes import Lanes
from dispatch.partition import MAX_STEP_S
from keylane.broker import Position, Received
from keylane.keyshared import KeySharedSubscription
from keylane.partitionlog import MemoryMessage
from tests.unit.lanes_hearing import Hearing, Table
from tests.unit.lanes_judge import Attempt, Judge
from tests.unit.lanes_passing import PARTITION, pass_by
from tests.unit.lanes_setting import Setting
from tests.unit.lanes_verify import verify

#: From a question to its answer.
ANSWER_S = 0.03
#: The longest that a worker takes between two steps: short of what it takes for having been frozen.
STEP_S = 0.9
#: The longest that messages lie at the client though the gate is open.
LAG_S = 0.05
#: What was to be given back has gone by then with the next burst, if bursts are large.
BURST_S = 0.5
LARGE_BURST = 500
#: An event loop takes that long to come round.
LOOP_S = 0.01


class Worker:
    """A process. `number` is its own, `name` may have been another's before."""

    def __init__(
        self,
        number: int,
        name: str,
        setting: Setting,
        subscription: KeySharedSubscription,
        judge: Judge,
        user_of: Callable[[Position], str],
        table: Table,
    ) -> None:
        self.number = number
        self.name = name
        self.lanes = Lanes(replace(setting.options, burst=setting.burst))
        self._setting = setting
        #: They are given to the broker so many at once, as the client does.
        self._permits_at_once = max(1, setting.queue // 2)
        self._subscription = subscription
        self._judge = judge
        self._user_of = user_of
        self.hearing = Hearing(table)
        #: Says what happens, for a trace.
        self.tell: Callable[[str], None] | None = None
        self.is_connected = self.is_member = False
        self.is_cut = self.is_frozen = self.is_dead = self.is_draining = False
        self.is_open = True
        #: For how long its gate has been closed, as far as it lives.
        self._closed_s = 0.0
        self.steps_first = False
        #: When the broker lets go of it, when it notices, and when that is over.
        self.lost_at = self.notices_at = self.connects_at = math.inf
        self.heals_at = self.thaws_at = math.inf
        self.next_at = 0.0
        #: When it takes what lies at its client, if nobody makes it do so before.
        self.late_at = math.inf
        self.is_touched = True
        self.queue: deque[MemoryMessage] = deque()
        self.wire: list[MemoryMessage] = []
        self._owed_permits = 0
        self._acks: deque[tuple[float, Position]] = deque()
        self._nacks: deque[tuple[float, list[Position]]] = deque()
        self._connected_from_s = 0.0
        #: The last message of each event: only that one's can be acknowledged.
        self._handles: dict[Position, Received] = {}
        #: What it tells the other workers.
        self.notes: list[Note] = []
        self._asked_at = self._answer_at = math.inf
        self.starting: list[Entry] = []
        self.running: list[Attempt] = []
        self.burying: list[Attempt] = []
        #: The last attempts of what was given up.
        self.condemned: dict[Entry, Attempt] = {}

    # Its connection

    def connect(self, now: float) -> None:
        self.is_connected = self.is_member = True
        self.lost_at = self.notices_at = self.connects_at = math.inf
        self._owed_permits = 0
        self.lanes.connect(PARTITION, now)
        self._connected_from_s = self.lanes.partitions[PARTITION].received_s
        self._handles.clear()
        self._subscription.join(self.name, self._setting.queue)
        self._say("connects")

    def is_let_go(self) -> None:
        """The broker counts it no longer, whether it knows that or not."""
        self.lost_at = math.inf
        if not self.is_member:
            return
        self._judge.forgotten.update(self._subscription.pending().get(self.name, ()))
        self.loses_place()
        self._subscription.leave(self.name)
        if not self._subscription.pending():
            # Nobody is left there to keep the counts for.
            self._judge.forget_counts()
        self._say("is let go by the broker")

    def loses_place(self) -> None:
        """What it does from now on, it does on its own, and what it says is not heard."""
        self.is_member = False
        self.lost_at = math.inf
        self._judge.orphan([*self.running, *self.condemned.values()])
        self._judge.unknown.update(position for _, position in self._acks)
        self.wire.clear()

    def notice(self, now: float, back_in_s: float) -> None:
        """It learns that its connection is lost, and with it whatever was on its way."""
        self.notices_at = math.inf
        if not self.is_connected:
            return
        self.lose_mail()
        self.is_connected = False
        self.connects_at = now + back_in_s
        self.lanes.disconnect(PARTITION, now)
        self._say("notices that its connection is lost")

    def lose_mail(self) -> None:
        self._judge.unknown.update(position for _, position in self._acks)
        self._acks.clear()
        self._nacks.clear()
        self.queue.clear()
        self.wire.clear()
        self._asked_at = self._answer_at = math.inf

    def take_in(self, message: MemoryMessage) -> None:
        """A message leaves the broker for this worker."""
        if not self.is_connected or self.is_dead:
            return
        if self.is_cut:
            self.wire.append(message)
        else:
            self.queue.append(message)

    @property
    def stepped_at(self) -> float:
        return self.lanes.partitions[PARTITION].stepped_at

    @property
    def is_fresh(self) -> bool:
        """It will take what opens a lane for a moved one's."""
        options = self.lanes.options
        if options.gate_events < 48 or options.max_lane_events < 1000:
            # The gate may close before the predecessor comes, and the worker waits no longer.
            return False
        received_s = self.lanes.partitions[PARTITION].received_s
        # That clock may be a step behind.
        margin_s = MAX_STEP_S + 2 * LAG_S
        return received_s - self._connected_from_s < options.fresh_s - margin_s

    @property
    def has_lanes(self) -> bool:
        return bool(self.lanes.partitions[PARTITION].lanes)

    @property
    def is_busy(self) -> bool:
        """Something here would be attempted yet. What is awaited may be another's for long."""
        counts = self.lanes._tally.counts
        return bool(self.queue) or sum(counts) > counts[State.AWAITED] + counts[State.PAGED]

    def holds(self, user: str) -> bool:
        return user in self.lanes.partitions[PARTITION].lanes

    @property
    def can_reach(self) -> bool:
        return self.is_member and self.is_connected and not self.is_cut and not self.is_frozen

    def expect_late(self, now: float) -> None:
        """Something has come that it will take before long."""
        if self.queue and self.can_receive and self.late_at == math.inf:
            self.late_at = now + LAG_S

    @property
    def can_receive(self) -> bool:
        return self.is_open and not (self.is_frozen or self.is_draining or self.is_dead)

    # Its steps

    def receive(self, now: float, at_most: int) -> None:
        """It takes a batch from its client's queue."""
        self.late_at = math.inf
        batch: Sequence[Received] = [self._take() for _ in range(min(at_most, len(self.queue)))]
        if self._setting.passes and not self.is_draining:
            batch = pass_by(self, self._judge, self._setting.passing_failures, batch, now)
        for message in batch:
            self.lanes.arrive(PARTITION, message, now)

    def _take(self) -> MemoryMessage:
        message = self.queue.popleft()
        self._owed_permits += 1
        if self.tell:
            self._say(f"gets {message.position} ({message.key}) x{message.redelivery_count}")
        self._handles[message.position] = message
        return message

    def live(self, now: float) -> None:
        """What happens by itself to a process that runs."""
        if self.notices_at <= now:
            self.notice(now, math.inf if self.is_cut else 0.2)
        if self.connects_at <= now:
            self.connect(now)
        if self.late_at <= now:
            self.late_at = math.inf
            if self.can_receive:
                self.receive(now, 1000)

    def turn(self, now: float) -> None:
        """A step of its event loop."""
        self.step(now)
        self.begin(now)

    def step(self, now: float) -> None:
        """Everything but the attempts themselves: those begin a moment later."""
        self.is_touched = True
        lanes = self.lanes
        self._closed_s = (
            0.0 if self.is_open else self._closed_s + min(now - self.stepped_at, MAX_STEP_S)
        )
        lanes.advance(now)
        self.hearing.hear(lanes, now)
        self._ask(now)
        if not self.is_draining:
            self.starting += [e for e in lanes.start_attempts(now) if not self._divert(e)]
        self._obey(now)
        self.is_open = lanes.may_receive(now)
        self.send(now)
        self._plan(now)

    def _divert(self, entry: Entry) -> bool:
        user = self._user_of(entry.position)
        is_diverted = self.hearing.divert(self.lanes, entry, user)
        if is_diverted:
            self._say(f"gives {entry.position} ({user}) up untried")
            attempt = Attempt(self.number, self.name, entry, entry.position, user)
            self._judge.divert(attempt)
            self.condemned[entry] = attempt
        return is_diverted

    def begin(self, now: float, loop_now: float | None = None) -> None:
        """The attempts begin, unless the process was stopped since it decided to."""
        starting, self.starting = self.starting, []
        for entry in starting:
            if self.lanes.is_doubtful(entry, now):
                self._say(f"does not begin {entry.position} after all")
                self.lanes.withdraw(entry, now if loop_now is None else loop_now)
                continue
            user = self._user_of(entry.position)
            attempt = Attempt(self.number, self.name, entry, entry.position, user)
            if self.tell:
                self._say(f"starts {entry.position} ({user}), attempt {entry.attempt}")
            self._judge.start(attempt, is_member=self.is_member, is_connected=self.is_connected)
            self.running.append(attempt)

    def acknowledge(self, attempt: Attempt, now: float) -> None:
        """It is done; the broker is not told without a connection, nor later."""
        assert attempt.entry is not None
        if not self.is_connected:
            self._judge.unknown.add(attempt.position)
        self.lanes.acknowledge(attempt.entry, now)

    def answered(self, now: float) -> None:
        """The broker's answer comes in, if there is one by now."""
        if self._answer_at <= now:
            asked_at, self._asked_at, self._answer_at = self._asked_at, math.inf, math.inf
            self.lanes.confirm(PARTITION, asked_at, now)

    def hold_answer(self) -> None:
        """An answer on its way stays out until the connection carries something again."""
        self._answer_at = math.inf

    def _ask(self, now: float) -> None:
        partitions = self.lanes.partitions
        partitions.judge(now, self.lanes.options.lease_s)
        if self._asked_at == math.inf and partitions.to_confirm(
            now, self.lanes.options.lease_s / 4
        ):
            self._asked_at = now
            self._say("asks the broker")

    def _obey(self, now: float) -> None:
        commands = self.lanes.take_commands()
        for entry in commands.dead_letter:
            self._bury(self.condemned[entry])
        for messages in commands.acknowledge.values():
            for message in messages:
                handle = self._handles.get(message.position)
                assert handle is None or handle is message, "an old handle is acknowledged"
                assert self.is_connected, "what is not ours is acknowledged"
                self._acks.append((now + self._setting.ack_delay_s, message.position))
        for positions in commands.negative_acknowledge.values():
            self._check_retries(positions)
            if self.is_connected:
                self._nacks.append((now + self._setting.nack_delay_s, positions))
        self.hearing.ask(commands.ask, now)
        if self.can_reach:
            self.notes += [note for _, note in commands.notes]

    def _check_retries(self, positions: list[Position]) -> None:
        """What can't come back is not given back: it is tried again from here."""
        if self._closed_s <= BURST_S or self._setting.burst < LARGE_BURST:
            return
        for position in positions:
            lane = self.lanes.partitions[PARTITION].lanes.get(self._user_of(position))
            if lane and lane.head.position == position and lane.head.attempts:
                what = f"{self.name} gives back {position}"
                self._judge.breaks(f"{what}, but has received nothing for {self._closed_s:.3f} s")

    def _bury(self, attempt: Attempt) -> None:
        is_sure = self.is_member and self.is_connected
        is_pending = attempt.position in self._subscription.pending().get(self.name, ())
        self._judge.bury(attempt, is_others=is_sure and not is_pending)
        self.burying.append(attempt)

    def send(self, now: float, *, everything: bool = False) -> bool:
        """What its client's threads do; True if something was negatively acknowledged."""
        if not self.can_reach:
            return False
        until = math.inf if everything else now
        while self._acks and self._acks[0][0] <= until:
            _, position = self._acks.popleft()
            self._judge.acknowledge(position)
            self._subscription.acknowledge(self.name, position)
        is_giving_back = False
        while self._nacks and self._nacks[0][0] <= now:
            _, positions = self._nacks.popleft()
            self._say(f"gives back {positions}")
            self._judge.give_back(positions)
            self._subscription.negative_acknowledge(self.name, positions)
            is_giving_back = True
        if self._owed_permits >= self._permits_at_once:
            self._subscription.permits(self.name, self._owed_permits)
            self._owed_permits = 0
        if self._asked_at < math.inf and self._answer_at == math.inf:
            self._answer_at = now + ANSWER_S
        return is_giving_back

    def hand_over(self, now: float) -> None:
        """Close the client in good order: what it kept to itself is sent."""
        self.lanes.hand_over()
        self._obey(now)
        self.send(now, everything=True)
        self.is_dead = True
        self.is_let_go()

    def recover_soon(self, now: float) -> None:
        """What is under way with its connection ends within a second or so."""
        if self.connects_at < math.inf:
            self.connects_at = min(self.connects_at, now + 1.0)
        if self.is_cut:
            self.heals_at = min(self.heals_at, now + 1.0)
        if self.is_frozen:
            self.thaws_at = min(self.thaws_at, max(now, self.stepped_at + 1.1))
        elif self.is_dead:
            self.lost_at = min(self.lost_at, now + 1.0)

    def due_at(self) -> float:
        """When it takes its next step, or something happens to its connection."""
        return min(
            self.next_at,
            self.lost_at,
            self.notices_at,
            self.connects_at,
            self.heals_at,
            self.thaws_at,
            math.inf if self.is_frozen or self.is_dead else self.late_at,
        )

    def check(self) -> None:
        """What must be true of it between any two steps."""
        self.is_touched = False
        verify(self.lanes)
        counts = self.lanes._tally.counts
        assert len(self.running) + len(self.starting) == counts[State.IN_FLIGHT]
        assert len(self.burying) == counts[State.DEAD_LETTERING]

    def _plan(self, now: float) -> None:
        at = min(now + STEP_S, self.lanes.wake_at(now), self.hearing.next_at())
        if self.can_reach:
            if self._acks:
                at = min(at, self._acks[0][0])
            if self._nacks:
                at = min(at, self._nacks[0][0])
        self.next_at = max(now + LOOP_S, min(at, self._answer_at))

    def _say(self, what: str) -> None:
        if self.tell:
            self.tell(f"{self.name} {what}")
