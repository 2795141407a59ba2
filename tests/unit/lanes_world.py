"""Workers' lanes against a Key_Shared subscription, under a clock of its own, without any I/O.

Stands in for everything around the lanes: the broker, the client (tests/unit/lanes_worker.py), the
destinations. What goes wrong is in tests/unit/lanes_faults.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from dispatch.commands import Note
from keylane.broker import OutgoingMessage, Position
from keylane.partitionlog import PartitionLog
from tests.unit.lanes_hearing import Table
from tests.unit.lanes_judge import Attempt, Judge
from tests.unit.lanes_passing import PARTITION
from tests.unit.lanes_setting import Setting
from tests.unit.lanes_subscription import SlowSubscription
from tests.unit.lanes_verify import verify
from tests.unit.lanes_worker import Worker

__all__ = ["Setting", "World", "verify"]

#: Workers are named again as those before them were, as it is where they are restarted.
NAMES = tuple(f"worker-{number}" for number in range(1, 10))
#: Few, so that a worker that joins takes more from some than from others.
RING_POINTS = 12
#: How long a worker's word takes to the others.
NOTE_S = 0.02


class World:
    """Everything that happens, one call each; raises at the first thing that must not.

    A worker is named by the place it has in `workers` at the moment, modulo their number; calls
    that make no sense for it do nothing.
    """

    def __init__(self, setting: Setting | None = None) -> None:
        self.setting = setting or Setting()
        self.now = 1000.0
        self.log = PartitionLog()
        self.subscription = SlowSubscription(self.log, ring_points=RING_POINTS)
        self.judge = Judge(
            lambda: self.now, self.setting.max_attempts, pages=self.setting.options.pages
        )
        #: Also those of which only the broker doesn't know yet that they are dead.
        self.workers: list[Worker] = []
        #: What a destination still works on though its worker is dead, and until when.
        self.ghosts: list[tuple[float, Attempt, bool]] = []
        #: Users of whom an event overtakes what is given back next.
        self.overtaking: list[str] = []
        #: What workers tell each other, and when it is heard.
        self._notes: list[tuple[float, Note]] = []
        #: Whether workers hear what others tell them.
        self.hears = True
        self._number = 0
        #: Who is held.
        self.table = Table(lag_s=self.setting.table_lag_s)
        self.trace: Callable[[str], None] | None = None

    # What people do

    def publish(self, user: str) -> None:
        self._append(user)
        self.settle()

    def overtake(self, user: str) -> None:
        """Publish at the worst time: with a read for new messages under way while others come back.

        The broker sends this one first, and what was given back only afterwards.
        """
        self.overtaking.append(user)

    def _append(self, user: str) -> None:
        position = self.log.append(OutgoingMessage(user, b"{}"))
        self.judge.publish(user, position)
        self.say(f"{user} publishes {position}")

    def join(self) -> None:
        self.judge.is_alone &= not self._number
        self.judge.joined_at = self.now
        taken = {worker.name for worker in self.workers}
        name = next(name for name in NAMES if name not in taken)
        self._number += 1
        worker = Worker(
            self._number,
            name,
            self.setting,
            self.subscription,
            self.judge,
            self._user_of,
            self.table,
        )
        worker.tell = self.say if self.trace else None
        self.workers.append(worker)
        worker.connect(self.now)
        worker.turn(self.now)
        self.settle()

    def leave(self, which: int) -> None:
        """Stop it: it starts and receives nothing more, and leaves when its attempts have ended."""
        if worker := self.pick(which):
            worker.is_draining = True
            self.judge.is_left = True
            self.say(f"{worker.name} is to leave")
            self.turn(worker)

    def catch_up(self, events: int | None = None) -> None:
        """What a worker held that is gone is sent again at last, or so many events of it."""
        self.say("the broker catches up")
        self.subscription.catch_up(events)
        self.settle()

    # What destinations do

    def finish(self, which: int, outcome: str, place: int = 0, delay_s: float = 1.0) -> None:
        """One of the worker's attempts ends: delivered, failed, spared or refused."""
        worker = self.pick(which)
        if worker is None or not worker.running:
            return
        attempt = worker.running.pop(place % len(worker.running))
        entry = attempt.entry
        assert entry is not None
        self.judge.end(attempt)
        self.say(f"{worker.name} has {attempt.position} {outcome}")
        if outcome == "delivered":
            self.judge.finish(attempt)
            worker.acknowledge(attempt, self.now)
        elif outcome == "spared":
            # The destination is down as a whole: the pace has no use for its attempts.
            self.judge.spare(attempt)
            worker.lanes.withdraw(entry, self.now)
        elif outcome == "taken back" and entry.attempt < self.setting.max_attempts:
            # It is counted at first, and found to be the destination's failure before long.
            self.judge.fail(attempt, delay_s)
            self.judge.take_back(attempt)
            worker.lanes.back_off(entry, delay_s, self.now)
            worker.lanes.forgive(entry, entry.attempts - 1)
        elif outcome == "refused" or entry.attempt >= self.setting.max_attempts:
            if outcome != "refused":
                self.judge.exhaust(attempt)
            self.judge.give_up(attempt)
            worker.condemned[entry] = attempt
            worker.lanes.give_up(entry)
        else:
            self.judge.fail(attempt, delay_s)
            worker.lanes.back_off(entry, delay_s, self.now)
        self.turn(worker)

    def bury(self, which: int, *, is_confirmed: bool, place: int = 0) -> None:
        """The dead-letter topic confirms, or does not."""
        worker = self.pick(which)
        if worker is None or not worker.burying:
            return
        attempt = worker.burying.pop(place % len(worker.burying))
        entry = attempt.entry
        assert entry is not None
        # First of all, so that nobody goes on behind a dead letter that is there already.
        holds = self.setting.options.holding.is_on
        if holds and worker.hearing.says_itself(attempt.user, self.now):
            self.judge.hold(attempt)
        self.say(f"{worker.name} buries {attempt.position}: {is_confirmed}")
        if is_confirmed:
            self.judge.finish(attempt, is_dead=True)
            del worker.condemned[entry]
            worker.acknowledge(attempt, self.now)
        else:
            worker.lanes.keep_condemned(entry, 1.0, self.now)
        self.turn(worker)

    def release(self, user: str) -> None:
        """Somebody lets the user go on."""
        self.table.say(self.now, user, is_held=False)
        self.judge.held.pop(user, None)
        self.say(f"{user} is released")

    def receive(self, which: int, at_most: int) -> None:
        worker = self.pick(which)
        if worker and worker.can_receive and worker.queue:
            worker.receive(self.now, at_most)
            self.turn(worker)

    # Time

    def pass_time(self, seconds: float) -> None:
        """Let everybody live, and take a step at the end: a worker's shell does every 20 ms."""
        self.sleep(seconds)
        for worker in list(self.workers):
            self._live(worker)
        self.settle()

    def sleep(self, seconds: float) -> None:
        """Let everybody live; a step of each whenever it has something to do."""
        end = self.now + seconds
        while True:
            at = min((worker.due_at() for worker in self.workers), default=math.inf)
            if self.ghosts:
                at = min(at, *(ghost[0] for ghost in self.ghosts))
            if at >= end:
                break
            self.now = max(self.now, at)
            self._lay_ghosts()
            for worker in list(self.workers):
                if worker.due_at() <= self.now:
                    self._live(worker)
            self.settle()
        self.now = end

    def _live(self, worker: Worker) -> None:
        now = self.now
        if worker.lost_at <= now:
            worker.is_let_go()
            self.follow(worker)
        if worker.is_dead:
            return
        if worker.is_frozen:
            worker.next_at = math.inf
            if worker.thaws_at <= now:
                self._thaw(worker)
            return
        if worker.heals_at <= now:
            self._heal(worker)
        worker.live(now)
        self.turn(worker, settles=False)

    def _heal(self, worker: Worker) -> None:
        self.say(f"{worker.name} is reached again")
        worker.is_cut = False
        worker.heals_at = worker.notices_at = math.inf
        worker.queue.extend(worker.wire)
        worker.wire.clear()
        if not worker.is_connected:
            # What was left of its old connection ends with the first sign of life.
            worker.is_let_go()
            worker.connects_at = self.now + 0.2
        elif not worker.is_member:
            worker.notices_at = self.now
        worker.lost_at = math.inf

    def _thaw(self, worker: Worker) -> None:
        self.say(f"{worker.name} goes on")
        now, frozen_at = self.now, worker.stepped_at
        worker.is_frozen = False
        worker.thaws_at = worker.lost_at = math.inf
        if worker.steps_first:
            worker.answered(now)
            worker.step(now)
        if self.setting.passes:
            # Handed over by the client's thread before anything else comes to pass.
            worker.receive(now, 1000)
        worker.begin(now, frozen_at)
        worker.turn(now)
        if not worker.is_member:
            worker.notices_at = now + 0.1

    def _lay_ghosts(self) -> None:
        for ghost in [ghost for ghost in self.ghosts if ghost[0] <= self.now]:
            self.ghosts.remove(ghost)
            _, attempt, is_taken = ghost
            self.judge.end(attempt)
            if is_taken:
                self.judge.finish(attempt)

    # How it goes on

    def pick(self, which: int) -> Worker | None:
        """A living worker that runs."""
        able = [w for w in self.workers if not (w.is_dead or w.is_frozen)]
        return able[which % len(able)] if able else None

    def turn(self, worker: Worker, *, settles: bool = True) -> None:
        worker.answered(self.now)
        if worker.send(self.now):
            self._let_overtake()
        worker.turn(self.now)
        self.follow(worker)
        if settles:
            self.settle()

    def follow(self, worker: Worker) -> None:
        """See whether this one is gone for good."""
        is_idle = not (worker.running or worker.burying or worker.starting)
        is_stuck = worker.is_cut or worker.is_frozen or worker.is_dead
        if worker.is_draining and is_idle and not is_stuck:
            # Closing a client sends the acknowledgements that it has kept.
            worker.hand_over(self.now)
            self._notes += [(self.now + NOTE_S, note) for note in worker.notes]
        if worker.is_dead and not worker.is_member and worker in self.workers:
            self.workers.remove(worker)

    def _let_overtake(self) -> None:
        for user in self.overtaking:
            # A worker that has been there for a while can't know that this user's key has just
            # moved to it, and that its first event is on its way behind a newer one.
            owner = self._by_name(self.subscription.owner_of(user))
            if owner.holds(user) or owner.is_fresh:
                self._append(user)
        if self.overtaking:
            self.overtaking.clear()
            self._hand_over(skip_replay=True)

    def _by_name(self, name: str) -> Worker:
        return next(worker for worker in self.workers if worker.is_member and worker.name == name)

    def _pass_notes(self) -> None:
        """Whoever can be reached hears what was said a moment ago."""
        if not self.hears:
            self._notes.clear()
        for note in [note for at, note in self._notes if at <= self.now]:
            for worker in self.workers:
                if worker.can_reach:
                    worker.lanes.learn(PARTITION, note)
        if self._notes:
            self._notes = [said for said in self._notes if said[0] > self.now]
        for worker in self.workers:
            if worker.notes:
                self._notes += [(self.now + NOTE_S, note) for note in worker.notes]
                worker.notes.clear()

    def _hand_over(self, *, skip_replay: bool = False) -> None:
        sent = self.subscription.dispatch(skip_replay=skip_replay)
        if sent:
            members = {w.name: w for w in self.workers if w.is_member}
            for name, message in sent:
                self.judge.send(members[name].number, message.position)
                members[name].take_in(message)
        if self.setting.is_eager:
            for worker in list(self.workers):
                if worker.queue and worker.can_receive:
                    worker.receive(self.now, 1000)
                    worker.turn(self.now)

    def settle(self) -> None:
        """The broker sends what it can, and those who are eager take it."""
        self._pass_notes()
        self._hand_over()
        if not self.setting.is_eager:
            for worker in self.workers:
                worker.expect_late(self.now)
            return
        while any(worker.queue and worker.can_receive for worker in self.workers):
            self._hand_over()

    def _user_of(self, position: Position) -> str:
        return self.log.at(position).key

    def say(self, what: str) -> None:
        if self.trace:
            self.trace(f"{self.now - 1000:9.3f}  {what}")

    def check(self) -> None:
        """What must be true between any two steps."""
        for worker in self.workers:
            if worker.is_touched and not worker.is_dead:
                worker.check()

    def skip(self, seconds: float, workers: Iterable[Worker]) -> None:
        """Let these take one step, so much later."""
        self.now += seconds
        for worker in list(workers):
            self._live(worker)
        self.settle()

    def told(self) -> str:
        """How everything stands."""
        lines = [f"pending {self.subscription.pending()}"]
        lines += [f"replay {self.subscription.replay_queue()}"]
        lines += [f"{w.name}: {w.lanes.statistics(self.now)}" for w in self.workers]
        return "\n".join(lines)
