"""The scheduler: which event of which user is attempted when, and what the broker is told.

Pure: arrivals, outcomes, connection changes and the time go in; attempts to start and commands to
the broker come out. It keeps a user's order over everything that stock Key_Shared loses it by:

- A failed head stays unacknowledged while its delay runs, so that its key can't move past it. When
  due, the head alone is negatively acknowledged, and whoever owns the key now gets it. The broker
  does send newer events of the key meanwhile; they park behind it.
- A head that is not back within `grace_s` means that the key moved, and its new owner gets nothing
  while we hold the tail. So the tail is given back too. What arrives for such a lane later is given
  back once as well: the broker redelivers in order, so an event that comes back without its
  predecessors proves that those are done.
- A redelivered event that opens a lane waits `settle_s`, for a predecessor still on its way.
- An event that arrives again joins itself; one finished lately is acknowledged again.
- Losing the connection means losing ownership: nothing is attempted while it lasts, and what was
  held is dropped when it is back, because the broker sends again what is still ours.
"""

from __future__ import annotations

import math
from collections import deque

from dispatch.commands import Commands, Statistics
from dispatch.lane import Entry, Lane, State
from dispatch.options import LaneOptions
from dispatch.partition import MAX_STEP_S, Partition
from dispatch.tally import Tally
from dispatch.timers import Due, Timer, Timers
from keylane.broker import REDELIVERY_BURST, REDELIVERY_INTERVAL_S, Position, Received


class Lanes:
    """All lanes of one worker. Every method that takes `now` takes seconds of one steady clock."""

    def __init__(self, options: LaneOptions) -> None:
        self.options = options
        self.commands = Commands()
        self._tally = Tally(options)
        self._timers = Timers()
        self._partitions: dict[int, Partition] = {}
        self._ready: deque[Lane] = deque()
        self._late = 0
        self._given_back = 0

    # What happens

    def connect(self, number: int, now: float) -> None:
        """The partition's consumer is (again) connected; the broker sends what is ours."""
        partition = self._partitions.setdefault(number, Partition(number))
        for lane in list(partition.lanes.values()):
            self._drop_all_but_running(partition, lane)
        partition.due_heads.clear()
        partition.due_tails.clear()
        partition.is_connected = True
        partition.is_receiving = self._tally.is_receiving
        partition.connected_at = partition.stepped_at = now

    def disconnect(self, number: int, now: float) -> None:
        """The connection is lost, and perhaps the keys with it."""
        partition = self._partitions[number]
        partition.step(now)
        partition.is_connected = False

    def arrive(self, number: int, message: Received, now: float) -> None:
        """A message came in; the order of calls is the order of arrival."""
        partition = self._partitions[number]
        position = message.position
        key = message.key or position
        lane = partition.lanes.get(key)
        entry = lane.find(position) if lane is not None else None
        if entry is not None:
            self._join(partition, entry, message, now)
        elif position in partition.finished:
            self._acknowledge(number, message)
        elif lane is not None:
            self._queue_up(partition, lane, message, now)
        else:
            lane = Lane(key, number)
            partition.lanes[key] = lane
            self._open(partition, lane, message, now)

    def start_attempts(self, limit: int | None = None) -> list[Entry]:
        """Take heads for which there is room, a lane at a time and in turn; each now runs.

        The room is `limit`, by default what is left of the concurrency.
        """
        if limit is None:
            limit = self.options.concurrency - self._tally.counts[State.IN_FLIGHT]
        started: list[Entry] = []
        ready = self._ready
        while ready and len(started) < limit:
            lane = ready.popleft()
            lane.is_queued = False
            # It may have been forgotten, or got an earlier head, since it was queued.
            if not len(lane) or lane.is_settling or lane.head.state is not State.HELD:
                continue
            if self._partitions[lane.partition].is_connected:
                self._tally.move(lane.head, State.IN_FLIGHT)
                started.append(lane.head)
        return started

    def acknowledge(self, entry: Entry, now: float) -> None:
        """The entry is delivered, or confirmed in the dead-letter topic: on to the next."""
        message, lane = entry.message, entry.lane
        if message is None or lane is None or lane.head is not entry:
            raise AssertionError("only a running head can be acknowledged")
        partition = self._partitions[lane.partition]
        partition.finished.add(entry.position)
        self._acknowledge(lane.partition, message)
        lane.remove_head()
        self._tally.leave(entry)
        self._go_on(partition, lane, now)

    def back_off(self, entry: Entry, delay_s: float, now: float) -> None:
        """The attempt failed; the next one after a delay, by whoever owns the key then."""
        entry.attempts += 1
        self._wait(entry, delay_s, now)

    def give_up(self, entry: Entry) -> None:
        """The entry is to be dead-lettered; its lane waits until that is confirmed."""
        entry.is_condemned = True
        self._dead_letter(entry)

    def keep_condemned(self, entry: Entry, delay_s: float, now: float) -> None:
        """The dead-letter topic did not confirm; try that again after a delay, here."""
        self._wait(entry, delay_s, now)

    def advance(self, now: float) -> None:
        """Let time pass: everything due by `now` happens."""
        for partition in self._partitions.values():
            partition.step(now)
        for timer in self._timers.ring(now):
            self._ring(timer, now)
        for partition in self._partitions.values():
            if partition.owes_redelivery:
                self._burst(partition, now)

    # What is to be done

    def take_commands(self) -> Commands:
        commands, self.commands = self.commands, Commands()
        return commands

    def wake_at(self, now: float) -> float | None:
        """When `advance` is next of use, if nothing else happens."""
        times = [p.next_burst for p in self._partitions.values() if p.owes_redelivery]
        timer_at = self._timers.next_at()
        if timer_at is not None:
            times.append(timer_at)
        if self._tally.counts[State.AWAITED]:
            # The clock of receiving time needs its steps.
            times.append(now + MAX_STEP_S)
        return max(now, min(times)) if times else None

    def may_receive(self) -> bool:
        """The receive gate, to be asked after every step."""
        was_open = self._tally.is_receiving
        is_open = self._tally.open_gate(is_anything_ready=bool(self._ready))
        if is_open != was_open:
            for partition in self._partitions.values():
                partition.is_receiving = is_open
        return is_open

    def statistics(self) -> Statistics:
        counts = self._tally.counts
        return Statistics(
            lanes=sum(len(p.lanes) for p in self._partitions.values()),
            ready=len(self._ready),
            held=counts[State.HELD],
            awaited=counts[State.AWAITED],
            in_flight=counts[State.IN_FLIGHT],
            backoff=counts[State.BACKOFF],
            dead_lettering=counts[State.DEAD_LETTERING],
            late=self._late,
            given_back=self._given_back,
            full=len(self._tally.full),
            is_receiving=self._tally.is_receiving,
        )

    # How it is done

    def _open(self, partition: Partition, lane: Lane, message: Received, now: float) -> None:
        entry = Entry(lane, message, message.position)
        # Nobody stands before it, so it was a head wherever it has been.
        entry.attempts_elsewhere = message.redelivery_count
        lane.add(entry)
        self._tally.enter(entry)
        if message.redelivery_count or now - partition.connected_at < self.options.fresh_s:
            lane.is_settling = True
            self._timers.set(now + self.options.settle_s, Due.SETTLE, lane)
            self._tally.weigh(lane)
        else:
            self._reconsider(partition, lane, now)

    def _queue_up(self, partition: Partition, lane: Lane, message: Received, now: float) -> None:
        entry = Entry(lane, message, message.position)
        self._tally.enter(entry)
        self._late += lane.add(entry)
        if lane.is_given_back:
            self._give_back_from(partition, lane, entry.position)
        if entry is lane.head:
            self._reconsider(partition, lane, now)
        else:
            self._tally.weigh(lane)

    def _join(self, partition: Partition, entry: Entry, message: Received, now: float) -> None:
        # Beyond what we gave back ourselves, somebody else attempted it in the meantime.
        entry.attempts_elsewhere += max(0, message.redelivery_count - entry.count)
        entry.count = message.redelivery_count
        entry.message = message
        if entry.state is not State.AWAITED or entry.lane is None:
            return
        self._tally.move(entry, State.HELD)
        lane = entry.lane
        if entry is lane.head:
            lane.is_given_back = False
            self._reconsider(partition, lane, now)
        elif lane.is_given_back:
            self._came_back(partition, lane, entry, now)

    def _came_back(self, partition: Partition, lane: Lane, entry: Entry, now: float) -> None:
        if not entry.is_given_back:
            # Asked for before the head went away, so it proves nothing: once more.
            self._give_back_from(partition, lane, entry.position)
        elif lane.awaited_until == math.inf:
            self._await(partition, lane, self.options.quiet_s, now)

    def _go_on(self, partition: Partition, lane: Lane, now: float) -> None:
        """The head is gone."""
        if len(lane):
            self._reconsider(partition, lane, now)
        else:
            self._forget(partition, lane)

    def _reconsider(self, partition: Partition, lane: Lane, now: float) -> None:
        """The head is another one, or is here again: let it have its turn, or wait for it."""
        if lane.head.state is State.HELD:
            if not lane.is_queued and not lane.is_settling:
                lane.is_queued = True
                self._ready.append(lane)
        elif lane.head.state is State.AWAITED:
            self._await(partition, lane, self.options.grace_s, now)
        self._tally.weigh(lane)

    def _wait(self, entry: Entry, delay_s: float, now: float) -> None:
        self._tally.move(entry, State.BACKOFF)
        entry.due = now + delay_s
        if entry.lane:
            self._timers.set(entry.due, Due.BACKOFF, entry.lane, entry, entry.due)
            self._tally.weigh(entry.lane)

    def _await(self, partition: Partition, lane: Lane, patience_s: float, now: float) -> None:
        lane.awaited_until = partition.received_s + patience_s
        self._timers.set(now + patience_s, Due.AWAIT, lane, lane.head, lane.awaited_until)

    def _ring(self, timer: Timer, now: float) -> None:
        lane, entry = timer.lane, timer.entry
        partition = self._partitions[lane.partition]
        # The key may have a new lane by now, which this timer must not touch.
        if partition.lanes.get(lane.key) is not lane:
            return
        if timer.due is Due.SETTLE:
            lane.is_settling = False
            self._reconsider(partition, lane, now)
        elif timer.due is Due.BACKOFF and entry:
            self._end_backoff(partition, entry, timer.token, now)
        elif timer.due is Due.AWAIT and entry:
            self._lose_patience(partition, lane, entry, timer.token, now)
        elif timer.due is Due.FORGET and lane.is_given_back:
            self._forget_given_back(partition, lane, now)

    def _end_backoff(self, partition: Partition, entry: Entry, due: float, now: float) -> None:
        lane = entry.lane
        if lane is None or entry.state is not State.BACKOFF or entry.due != due:
            return
        if entry.is_condemned:
            self._dead_letter(entry)
        elif lane in self._tally.full:
            # Receiving has stopped, so it would not come back: try again what is in hand.
            self._tally.move(entry, State.HELD)
            self._reconsider(partition, lane, now)
        else:
            partition.due_heads.append(entry)

    def _dead_letter(self, entry: Entry) -> None:
        self._tally.move(entry, State.DEAD_LETTERING)
        self.commands.dead_letter.append(entry)

    def _lose_patience(
        self, partition: Partition, lane: Lane, entry: Entry, until: float, now: float
    ) -> None:
        is_over = lane.head is not entry or entry.state is not State.AWAITED
        if is_over or lane.awaited_until != until:
            return
        remaining_s = until - partition.received_s
        if remaining_s > 0:
            self._timers.set(now + remaining_s, Due.AWAIT, lane, entry, until)
        elif lane.is_given_back:
            self._presume_done(partition, lane, now)
        else:
            self._give_back(partition, lane, now)

    def _give_back(self, partition: Partition, lane: Lane, now: float) -> None:
        """The key moved: its new owner gets nothing while we hold something of it."""
        for entry in lane:
            entry.is_given_back = False
        lane.is_given_back = True
        lane.awaited_until = math.inf
        self._given_back += 1
        self._give_back_from(partition, lane, lane.head.position)
        self._timers.set(now + self.options.forget_s, Due.FORGET, lane)

    def _give_back_from(self, partition: Partition, lane: Lane, position: Position) -> None:
        waiting = partition.due_tails
        if not (waiting and waiting[-1][0] is lane and waiting[-1][1] <= position):
            waiting.append((lane, position))

    def _presume_done(self, partition: Partition, lane: Lane, now: float) -> None:
        """Later events came back without these, so they were finished elsewhere."""
        entries = list(lane)
        first = next((i for i, e in enumerate(entries) if e.state is State.HELD), len(entries))
        for entry in entries[:first]:
            self._tally.leave(entry)
        lane.keep(entries[first:])
        lane.is_given_back = False
        self._go_on(partition, lane, now)

    def _forget_given_back(self, partition: Partition, lane: Lane, now: float) -> None:
        if all(entry.state is State.AWAITED for entry in lane):
            self._forget(partition, lane)
        else:
            self._timers.set(now + self.options.forget_s, Due.FORGET, lane)

    def _drop_all_but_running(self, partition: Partition, lane: Lane) -> None:
        head = lane.head
        if head.state not in (State.IN_FLIGHT, State.DEAD_LETTERING):
            self._forget(partition, lane)
            return
        for entry in lane:
            if entry is not head:
                self._tally.leave(entry)
        lane.keep([head])
        lane.is_given_back = False
        self._tally.weigh(lane)

    def _forget(self, partition: Partition, lane: Lane) -> None:
        for entry in lane:
            self._tally.leave(entry)
        lane.keep([])
        self._tally.weigh(lane)
        del partition.lanes[lane.key]

    def _burst(self, partition: Partition, now: float) -> None:
        """Tell the broker what to deliver again: heads first, then tails with what is left."""
        if now < partition.next_burst:
            return
        partition.next_burst = now + REDELIVERY_INTERVAL_S
        burst: list[Received] = []
        while partition.due_heads and len(burst) < REDELIVERY_BURST:
            entry = partition.due_heads.popleft()
            if entry.state is State.BACKOFF and entry.lane:
                self._send_back(entry, burst)
                self._await(partition, entry.lane, self.options.grace_s, now)
        while partition.due_tails and len(burst) < REDELIVERY_BURST:
            lane, position = partition.due_tails.popleft()
            self._send_back_tail(partition, lane, position, burst)
        if burst:
            self.commands.negative_acknowledge[partition.number] = burst

    def _send_back_tail(
        self, partition: Partition, lane: Lane, position: Position, burst: list[Received]
    ) -> None:
        if not len(lane) or not lane.is_given_back:
            return
        for entry in lane.entries_from(position):
            if len(burst) >= REDELIVERY_BURST:
                partition.due_tails.appendleft((lane, entry.position))
                return
            if entry.state is State.HELD and not entry.is_given_back:
                entry.is_given_back = True
                self._send_back(entry, burst)

    def _send_back(self, entry: Entry, burst: list[Received]) -> None:
        if entry.message is None:
            raise AssertionError("an entry without its message was sent back")
        burst.append(entry.message)
        entry.message = None
        # The broker counts every negative acknowledgement.
        entry.count += 1
        self._tally.move(entry, State.AWAITED)

    def _acknowledge(self, number: int, message: Received) -> None:
        self.commands.acknowledge.setdefault(number, []).append(message)
