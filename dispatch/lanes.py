"""The scheduler: which event of which user is attempted when, and what the broker is told.

Pure: arrivals, outcomes, connection changes and the time go in; attempts to start and commands to
the broker come out. docs/delivery.md has the rules by which it keeps a user's order over everything
that stock Key_Shared loses it by, dispatch/absences.py what becomes of a head that stays away. Two
more are hard to see in the code:

- Losing the connection means losing ownership, noticed or not: nothing is attempted unless the
  broker answered lately, and what was held is dropped when the connection is back.
- A timer can't be cancelled. It looks whether what it was set for is still so.
"""

from __future__ import annotations

from dispatch import clearance
from dispatch.absences import Absences
from dispatch.backoffs import Backoffs
from dispatch.clearance import Ask
from dispatch.commands import Commands, Note
from dispatch.lane import Entry, Lane, LaneKey, State
from dispatch.options import LaneOptions
from dispatch.partition import MAX_STEP_S, Partition, Partitions
from dispatch.passing import Passing
from dispatch.redelivery import Redelivery
from dispatch.settling import settled, waits_for_predecessor
from dispatch.statistics import Statistics, statistics_of
from dispatch.tally import Tally
from dispatch.timers import Due, Timer, Timers
from dispatch.turns import Turns
from keylane.broker import Received


class Lanes:
    """All lanes of one worker. Every method that takes `now` takes seconds of one steady clock."""

    def __init__(self, options: LaneOptions) -> None:
        self.options = options
        self.commands = Commands()
        self._doubt = clearance.Doubt(is_needed=options.holding.is_on).cast
        self._tally = Tally(options)
        self._redelivery = Redelivery(self._tally, options.burst)
        self._timers = Timers()
        self._absences = Absences(
            options, self._tally, self._timers, self._redelivery, self._note, self._go_on
        )
        self._backoffs = Backoffs(
            options, self._tally, self._timers, self._dead_letter, self._reconsider, self._drop_head
        )
        self.partitions = Partitions()
        self._turns = Turns(self._tally, options)
        self.passing = Passing(options, self.partitions, self.commands, self._turns, self.arrive)
        self._once_more_limit = options.once_more_lanes
        self._late = 0

    # What happens

    def connect(self, number: int, now: float) -> None:
        """The partition's consumer is (again) connected; the broker sends what is ours."""
        partition = self.partitions.setdefault(number, Partition(number))
        for lane in list(partition.lanes.values()):
            self._doubt(lane)
            self._tally.drop_all_but_running(partition, lane)
        partition.connect(now)
        self.partitions.receive(is_open=self._tally.is_receiving)

    def confirm(self, number: int, asked_at: float, now: float) -> None:
        """The broker answered what it was asked then: it counted us as its consumer."""
        partition = self.partitions[number]
        partition.step(now, self.options.freeze_s)
        partition.confirm(asked_at)
        self._turns.release(partition)

    def disconnect(self, number: int, now: float) -> None:
        """The connection is lost, and perhaps the keys with it."""
        partition = self.partitions[number]
        partition.step(now, self.options.freeze_s)
        partition.is_connected = False
        self.commands.acknowledge.pop(number, None)

    def arrive(self, number: int, message: Received, now: float) -> None:
        """A message came in; the order of calls is the order of arrival."""
        partition = self.partitions[number]
        if now > partition.stepped_at:
            # What passed before it came, nobody has waited with it.
            partition.step(now, self.options.freeze_s)
        position = message.position
        key = message.key or position
        lane = partition.lanes.get(key)
        entry = lane.find(position) if lane is not None else None
        if entry is not None:
            self._join(partition, entry, message, now)
        elif position in partition.finished:
            if lane is None and message.redelivery_count:
                partition.moving.put(key, None)
            self.commands.acknowledge.setdefault(number, []).append(message)
        elif lane is not None:
            self._queue_up(partition, lane, message, now)
        else:
            self._open(partition, key, message, now)

    def start_attempts(self, now: float, limit: int | None = None) -> list[Entry]:
        """Take heads for which there is room, a lane at a time and in turn; each now runs.

        The room is `limit`, by default what is left of the concurrency.
        """
        if limit is None:
            limit = self.options.concurrency - self.in_flight
        self.partitions.judge(now, self.options.lease_s)
        return self._turns.take(self.partitions, limit, now)

    def is_doubtful(self, entry: Entry, now: float) -> bool:
        """Whether so much time passed since `start_attempts` that the attempt had better not begin.

        The process may have been stopped in between; `now` must be read anew.
        """
        lane = entry.lane
        partition = self.partitions[lane.partition] if lane else None
        if partition is None:
            # A step in between has noticed already.
            return True
        return not partition.is_sure(now, self.options.freeze_s, self.options.lease_s)

    def withdraw(self, entry: Entry, now: float) -> None:
        """The attempt does not count: it did not begin, or would have failed for anybody."""
        if entry.is_stray:
            # Perhaps it is another worker's by now: only the broker can tell.
            self._backoffs.wait(entry, 0.0, now)
        elif entry.lane:
            self._tally.move(entry, State.HELD)
            self._reconsider(self.partitions[entry.lane.partition], entry.lane, now)

    def put_off(self, entry: Entry) -> Ask:
        """What was just started did not begin, and its lane has no turn until it is cleared."""
        lane = entry.lane
        if lane is None or entry.is_stray:
            raise AssertionError("only what was just started can be put off")
        clearance.doubt(lane)
        self._tally.move(entry, State.HELD)
        self._tally.weigh(lane)
        return clearance.asked(lane)

    def clear(self, answered: Ask, now: float) -> None:
        """The lane has leave; void if it has asked again since."""
        lane = answered.lane
        partition = self.partitions[lane.partition]
        if clearance.is_valid(answered) and partition.lanes.get(lane.key) is lane:
            clearance.clear(lane)
            if not lane.is_settling:
                self._reconsider(partition, lane, now)

    def hurry(self, entry: Entry, now: float) -> None:
        """Its backoff ends now, here."""
        if entry.lane and entry.state is State.BACKOFF and not entry.is_stray:
            self._backoffs.end_here(self.partitions[entry.lane.partition], entry.lane, entry, now)

    def acknowledge(self, entry: Entry, now: float) -> None:
        """The entry is delivered, or confirmed in the dead-letter topic: on to the next."""
        message, lane = entry.message, entry.lane
        if message is None or lane is None or lane.head is not entry:
            raise AssertionError("only a running head can be acknowledged")
        partition = self.partitions[lane.partition]
        if entry.state is State.IN_FLIGHT:
            self._turns.took(lane, now)
        partition.finished.put(entry.position, None)
        partition.known.put(lane.key, None)
        if entry.count:
            partition.served.put(lane.key, None)
        if partition.is_connected and not entry.is_stray:
            # Else the broker has given it away since, and would send what comes next meanwhile.
            self.commands.acknowledge.setdefault(lane.partition, []).append(message)
        lane.remove_head()
        self._tally.leave(entry)
        self._go_on(partition, lane, now)

    def back_off(self, entry: Entry, delay_s: float, now: float) -> None:
        """The attempt failed; the next one after a delay, by whoever owns the key then."""
        entry.attempts += 1
        if entry.lane:
            self._turns.took(entry.lane, now)
        if entry.attempts == 1:
            # In case that this worker dies.
            self._note(entry, entry.count + 1)
        self._backoffs.wait(entry, delay_s, now)

    def forgive(self, entry: Entry, attempts: int) -> None:
        """Of its attempts here only so many count after all."""
        if entry.lane and entry.attempts > attempts and not entry.is_condemned:
            entry.attempts = attempts
            self._tally.weigh(entry.lane)

    def give_up(self, entry: Entry) -> None:
        """The entry is to be dead-lettered; its lane waits until that is confirmed."""
        entry.is_condemned = True
        self._dead_letter(entry)

    def keep_condemned(self, entry: Entry, delay_s: float, now: float) -> None:
        """The dead-letter topic did not confirm; try that again after a delay, here."""
        self._backoffs.wait(entry, delay_s, now)

    def learn(self, number: int, note: Note) -> None:
        """Another worker tells of an event that it gave back, or may."""
        if number in self.partitions:
            self.partitions[number].notes.put(note.position, note)

    def hand_over(self) -> None:
        """This worker leaves: what it was attempting will be another one's."""
        for partition in self.partitions.values():
            for lane in partition.lanes.values():
                self._note(lane.head, lane.head.count)

    def advance(self, now: float) -> None:
        """Let time pass: everything due by `now` happens."""
        for partition in self.partitions.values():
            partition.step(now, self.options.freeze_s)
            for lane in settled(partition):
                # What it weighs has been known since its head came.
                if lane.is_cleared and lane.head.state is State.HELD:
                    self._turns.join(lane)
                else:
                    self._reconsider(partition, lane, now)
        for timer in self._timers.ring(now):
            self._ring(timer, now)
        for partition in self.partitions.values():
            if partition.owes_redelivery:
                self._burst(partition, now)

    # What is to be done

    def take_commands(self) -> Commands:
        return self.commands.take()

    def wake_at(self, now: float) -> float:
        """When `advance` is next of use, if nothing else happens; infinity if never."""
        at = self._timers.next_at()
        if self._tally.counts[State.AWAITED]:
            # The clock of receiving time needs its steps.
            at = min(at, now + MAX_STEP_S)
        for partition in self.partitions.values():
            if partition.owes_redelivery:
                at = min(at, partition.next_burst)
            if partition.is_settling:
                at = min(at, now + partition.settles_in_s)
        return max(now, at)

    def may_receive(self, now: float) -> bool:
        """The receive gate, to be asked after every step."""
        is_open = self._tally.open_gate(now, is_anything_ready=self._turns.can_start)
        if is_open is not self.partitions.is_open:
            self.partitions.receive(is_open=is_open)
        self.partitions.limit_once_more(self._turns.once_more, self._once_more_limit)
        return is_open

    @property
    def in_flight(self) -> int:
        """Attempts that run."""
        return self._tally.counts[State.IN_FLIGHT]

    def events_in_hand(self) -> int:
        return sum(self._tally.counts)

    def full(self) -> list[Lane]:
        """Lanes at `max_lane_events`."""
        return list(self._tally.full)

    def statistics(self, now: float) -> Statistics:
        parts = (self.partitions, self._tally, self._turns, self._absences, self._redelivery)
        return statistics_of(*parts, self._late, now)

    # How it is done

    def _open(self, partition: Partition, key: LaneKey, message: Received, now: float) -> None:
        lane = partition.lanes[key] = Lane(key, partition.number, now)
        entry = Entry(lane, message, message.position)
        entry.attempts_elsewhere = partition.attempts_before(key, message)
        lane.add(entry)
        self._doubt(lane)
        self._tally.enter(entry)
        if waits_for_predecessor(partition, lane, message, self.options):
            self._tally.weigh(lane)
        else:
            self._reconsider(partition, lane, now)

    def _queue_up(self, partition: Partition, lane: Lane, message: Received, now: float) -> None:
        entry = Entry(lane, message, message.position)
        self._tally.enter(entry)
        is_behind_pages = lane.is_behind_pages(entry.position)
        head = lane.head
        self._late += lane.add(entry)
        if entry is lane.head:
            # So it is this one that was a head elsewhere, and the other was not.
            entry.attempts_elsewhere = partition.attempts_before(lane.key, message)
            head.attempts_elsewhere = 0
            self._doubt(lane)
        is_last = lane.entries[-1] is entry
        if is_behind_pages or (is_last and lane.window > self._tally.payload_events):
            self._tally.drop_payload(entry, State.PAGED)
            lane.paged += 1
        else:
            self._tally.hold_payload(entry, message)
        if lane.is_given_back:
            self._absences.met(partition, lane, entry)
        if entry is lane.head:
            self._reconsider(partition, lane, now)
        else:
            self._tally.weigh(lane)

    def _join(self, partition: Partition, entry: Entry, message: Received, now: float) -> None:
        # Beyond what we gave back ourselves, somebody else attempted it in the meantime.
        entry.attempts_elsewhere += max(0, message.redelivery_count - entry.count)
        entry.count = message.redelivery_count
        entry.is_stray = False
        if entry.state is State.PAGED:
            return
        entry.message = message
        lane = entry.lane
        if lane is None:
            return
        if entry.state is not State.AWAITED:
            self._tally.weigh(lane)
            return
        self._tally.move(entry, State.HELD)
        self._tally.hold_payload(entry, message)
        if lane.is_given_back:
            self._doubt(lane)
        if entry is lane.head:
            lane.is_given_back = False
            self._reconsider(partition, lane, now)
        elif lane.is_given_back:
            self._absences.came_back(partition, lane, entry, now)

    def _go_on(self, partition: Partition, lane: Lane, now: float) -> None:
        """The head is gone."""
        if len(lane):
            lane.head_since = now
            partition.lanes.move_to_end(lane.key)
            self._redelivery.fetch_soon(partition, lane)
            self._reconsider(partition, lane, now)
        else:
            self._tally.forget(partition, lane)

    def _reconsider(self, partition: Partition, lane: Lane, now: float) -> None:
        """The head is another one, or is here again: let it have its turn, or wait for it."""
        if lane.head.state is State.HELD:
            if lane.is_cleared:
                self._turns.join(lane)
            elif not lane.is_asking:
                self.commands.ask.append(clearance.asked(lane))
        elif lane.head.state is State.AWAITED:
            self._absences.wait(partition, lane, self.options.grace_s, now)
        self._tally.weigh(lane)

    def _ring(self, timer: Timer, now: float) -> None:
        lane, entry = timer.lane, timer.entry
        partition = self.partitions[lane.partition]
        # The key may have a new lane by now, which this timer must not touch.
        if partition.lanes.get(lane.key) is not lane:
            return
        if timer.due is Due.BACKOFF and entry:
            self._backoffs.end(partition, entry, timer.token, now)
        elif timer.due is Due.AWAIT and entry:
            self._absences.lose_patience(partition, lane, entry, timer.token, now)
        elif timer.due is Due.FORGET and lane.is_given_back:
            self._absences.forget(partition, lane, timer.token, now)

    def _drop_head(self, partition: Partition, lane: Lane, entry: Entry, now: float) -> None:
        lane.remove_head()
        self._tally.leave(entry)
        self._go_on(partition, lane, now)

    def _dead_letter(self, entry: Entry) -> None:
        self._tally.move(entry, State.DEAD_LETTERING)
        if entry.lane:
            self._tally.weigh(entry.lane)
        self.commands.dead_letter.append(entry)

    def _note(self, entry: Entry, count: int) -> None:
        """Tell the others what the broker's count, when it is that, doesn't tell."""
        if entry.lane and count != entry.attempt - 1:
            note = Note(entry.position, count, entry.attempt - 1)
            self.learn(entry.lane.partition, note)
            self.commands.notes.append((entry.lane.partition, note))

    def _burst(self, partition: Partition, now: float) -> None:
        positions = self._redelivery.burst(partition, now)
        if positions:
            self.commands.negative_acknowledge[partition.number] = positions
        for lane in self._redelivery.departed:
            self._note(lane.head, lane.head.count)
            self._absences.wait(partition, lane, self.options.grace_s, now)
            self._tally.weigh(lane)
        self._redelivery.departed.clear()
