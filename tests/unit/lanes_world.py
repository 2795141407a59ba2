"""Workers' lanes against a Key_Shared subscription, under a clock of its own, without any I/O.

Stands in for everything around the lanes: the broker's client (its queue, its delay before a
negative acknowledgement goes out), the destination, crashes and connections. Judges every attempt
that starts by what was finished before.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from dispatch.lane import Entry, State
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from keylane.broker import OutgoingMessage, Position
from keylane.keyshared import KeySharedSubscription
from keylane.partitionlog import MemoryMessage, PartitionLog

PARTITION = 0
#: As Pulsar's client does it.
NEGATIVE_ACK_DELAY_S = 0.134
QUEUE = 50


@dataclass(eq=False)
class Worker:
    """One process: its lanes, and what its client holds."""

    name: str
    lanes: Lanes
    is_connected: bool = True
    is_draining: bool = False
    queue: deque[MemoryMessage] = field(default_factory=deque)
    returning: deque[tuple[float, list[Position]]] = field(default_factory=deque)
    running: list[Entry] = field(default_factory=list)
    burying: list[Entry] = field(default_factory=list)


@dataclass
class Judgement:
    """What must not happen, in words; and what a disturbance explains, counted."""

    broken: list[str] = field(default_factory=list)
    overlaps: int = 0
    repeated: int = 0


class World:
    """Everything that happens, one call each; `judgement.broken` stays empty."""

    def __init__(self, options: LaneOptions | None = None) -> None:
        self.options = options or LaneOptions(concurrency=3)
        self.now = 1000.0
        self.log = PartitionLog()
        self.subscription = KeySharedSubscription(self.log)
        self.workers: dict[str, Worker] = {}
        self.judgement = Judgement()
        self.finished: set[Position] = set()
        self.dead: set[Position] = set()
        self.attempts: dict[Position, int] = {}
        #: Positions of each user, in order.
        self.users: dict[str, list[Position]] = {}
        #: Attempts under way by user, also those of the dead that the destination still works on.
        self.under_way: dict[str, list[tuple[str, Position]]] = {}
        self.is_disturbed = False
        self._names = itertools.count(1)

    # What people and machines do

    def publish(self, user: str) -> None:
        position = self.log.append(OutgoingMessage(user, b"{}"))
        self.users.setdefault(user, []).append(position)
        self.dispatch()

    def join(self) -> str:
        name = f"worker-{next(self._names)}"
        worker = Worker(name, Lanes(self.options))
        worker.lanes.connect(PARTITION, self.now)
        self.workers[name] = worker
        self.subscription.join(name, QUEUE)
        self.dispatch()
        return name

    def leave(self, name: str) -> None:
        """A drained worker: its attempts have ended before it closes its consumers."""
        worker = self.workers[name]
        worker.is_draining = True
        while worker.running:
            self.finish(name, "delivered")
        while worker.burying:
            self.bury(name, is_confirmed=True)
        self._obey(worker)
        del self.workers[name]
        self.subscription.leave(name)
        self.dispatch()

    def crash(self, name: str) -> None:
        self.is_disturbed = True
        del self.workers[name]
        self.subscription.leave(name)
        for attempts in self.under_way.values():
            attempts[:] = [a for a in attempts if a[0] != name]
        self.dispatch()

    def disconnect(self, name: str) -> None:
        worker = self.workers[name]
        if worker.is_connected:
            self.is_disturbed = True
            worker.is_connected = False
            worker.queue.clear()
            worker.returning.clear()
            worker.lanes.disconnect(PARTITION, self.now)
            self.subscription.leave(name)
            self._turn(worker)

    def reconnect(self, name: str) -> None:
        worker = self.workers[name]
        if not worker.is_connected:
            worker.is_connected = True
            worker.lanes.connect(PARTITION, self.now)
            self.subscription.join(name, QUEUE)
            self.dispatch()

    def receive(self, name: str, at_most: int) -> None:
        """The worker takes a batch from its client's queue."""
        worker = self.workers[name]
        if not worker.lanes.may_receive(self.now):
            return
        taken = [worker.queue.popleft() for _ in range(min(at_most, len(worker.queue)))]
        self.subscription.permits(name, len(taken))
        for message in taken:
            worker.lanes.arrive(PARTITION, message, self.now)
        self._turn(worker)
        self.dispatch()

    def finish(self, name: str, outcome: str, which: int = 0, delay_s: float = 1.0) -> None:
        """One of the worker's attempts ends."""
        worker = self.workers[name]
        if not worker.running:
            return
        entry = worker.running.pop(which % len(worker.running))
        user = self._user(entry)
        self.under_way[user].remove((name, entry.position))
        if outcome == "delivered":
            self.finished.add(entry.position)
            worker.lanes.acknowledge(entry, self.now)
        elif outcome == "failed":
            worker.lanes.back_off(entry, delay_s, self.now)
        else:
            worker.lanes.give_up(entry)
        self._turn(worker)

    def bury(self, name: str, *, is_confirmed: bool, which: int = 0) -> None:
        """The dead-letter topic confirms, or does not."""
        worker = self.workers[name]
        if not worker.burying:
            return
        entry = worker.burying.pop(which % len(worker.burying))
        if is_confirmed:
            self.finished.add(entry.position)
            self.dead.add(entry.position)
            worker.lanes.acknowledge(entry, self.now)
        else:
            worker.lanes.keep_condemned(entry, 1.0, self.now)
        self._turn(worker)

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, as an event loop would."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.1)
            for worker in list(self.workers.values()):
                self._send_returning(worker)
                self._turn(worker)
            self.dispatch()

    def dispatch(self, *, skip_replay: bool = False) -> None:
        for name, message in self.subscription.dispatch(skip_replay=skip_replay):
            self.workers[name].queue.append(message)

    def drain(self, within_s: float = 60.0) -> None:
        """Everything succeeds from now on; nothing may be left when the time is over."""
        end = self.now + within_s
        for worker in self.workers.values():
            self.reconnect(worker.name)
        if not self.workers:
            self.join()
        while self.subscription.backlog() and self.now < end:
            for name in list(self.workers):
                self.receive(name, QUEUE)
                while self.workers[name].running:
                    self.finish(name, "delivered")
                while self.workers[name].burying:
                    self.bury(name, is_confirmed=True)
            self.pass_time(0.1)

    # What follows from it

    def _turn(self, worker: Worker) -> None:
        if worker.is_connected:
            worker.lanes.confirm(PARTITION, self.now, self.now)
        worker.lanes.advance(self.now)
        for entry in [] if worker.is_draining else worker.lanes.start_attempts(self.now):
            self._judge_start(worker, entry)
            worker.running.append(entry)
            self.under_way.setdefault(self._user(entry), []).append((worker.name, entry.position))
        self._obey(worker)

    def _obey(self, worker: Worker) -> None:
        commands = worker.lanes.take_commands()
        worker.burying += commands.dead_letter
        for messages in commands.acknowledge.values():
            for message in messages:
                self.subscription.acknowledge(worker.name, message.position)
        for positions in commands.negative_acknowledge.values():
            if worker.is_connected:
                worker.returning.append((self.now + NEGATIVE_ACK_DELAY_S, positions))
        self.dispatch()

    def _send_returning(self, worker: Worker) -> None:
        while worker.returning and worker.returning[0][0] <= self.now:
            _, positions = worker.returning.popleft()
            self.subscription.negative_acknowledge(worker.name, positions)

    def _user(self, entry: Entry) -> str:
        return self.log.at(entry.position).key

    def _judge_start(self, worker: Worker, entry: Entry) -> None:
        user, position = self._user(entry), entry.position
        self.attempts[position] = self.attempts.get(position, 0) + 1
        earlier = [p for p in self.users[user] if p < position and p not in self.finished]
        if earlier:
            self._break(f"{worker.name} starts {position} of {user} before {earlier}")
        if not worker.is_connected:
            self._break(f"{worker.name} starts {position} of {user} without a connection")
        if self.under_way.get(user):
            self.judgement.overlaps += 1
            if not self.is_disturbed:
                self._break(f"{worker.name} starts {position} while {self.under_way[user]} runs")
        if position in self.finished:
            self.judgement.repeated += 1
            if not self.is_disturbed:
                self._break(f"{worker.name} starts {position} of {user} again")

    def _break(self, what: str) -> None:
        self.judgement.broken.append(f"at {self.now - 1000:.1f} s: {what}")

    def told(self) -> str:
        """How everything stands, for the message of a failed check."""
        lines = [f"pending {self.subscription.pending()}"]
        lines += [f"replay {self.subscription.replay_queue()}"]
        lines += [f"{w.name}: {w.lanes.statistics(self.now)}" for w in self.workers.values()]
        return "\n".join(lines)

    def check(self) -> None:
        """What must be true after every step."""
        assert not self.judgement.broken, self.judgement.broken
        for worker in self.workers.values():
            verify(worker.lanes)
            assert len(worker.running) == worker.lanes.statistics(self.now).events["in_flight"]


def verify(lanes: Lanes) -> None:
    """Recompute from the lanes themselves what is counted along the way."""
    counts = dict.fromkeys(State, 0)
    load = payload_bytes = 0
    for partition in lanes.partitions.values():
        for key, lane in partition.lanes.items():
            assert len(lane) > 0, f"the lane of {key} is empty"
            rest = [e.position for e in lane][1:]
            assert rest == sorted(set(rest)), f"the lane of {key} is out of order"
            load += lane.weight
            for entry in lane:
                counts[entry.state] += 1
                assert entry.lane is lane
                assert (entry.message is None) == (entry.state in (State.AWAITED, State.PAGED))
                assert entry is lane.head or entry.state < State.IN_FLIGHT
                payload_bytes += entry.payload_bytes
            assert lane.paged == sum(e.state is State.PAGED for e in lane)
            assert all(e.state is State.PAGED for e in list(lane)[len(lane) - lane.paged :])
    assert list(counts.values()) == lanes._tally.counts
    assert load == lanes._tally.load
    assert payload_bytes == lanes._tally.payload_bytes
