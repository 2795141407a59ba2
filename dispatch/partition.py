"""What a worker knows of one partition that it receives from."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Container, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from dispatch.commands import Note
from dispatch.lane import Entry, Lane, LaneKey
from keylane.broker import Position, Received
from keylane.names import WHOLE

#: How long ids of finished events are remembered at least. Acknowledgements leave the client
#: within 0.1 s, but the broker saves those above a hole only every 10 to 60 s: after its death it
#: sends them again.
FINISHED_KEPT_S: Final = 60.0
#: And how many at most, twice: about 10 MB a partition.
FINISHED_KEPT: Final = 50_000
#: The most that one step adds to the clock of receiving time: a process that did not run for a
#: while must not believe that the broker was silent for that long.
MAX_STEP_S: Final = 0.25
#: The same of the clock that short waits go by. A worker's steps are 0.02 s apart when nothing
#: happens; after a longer one messages that have come meanwhile may not have been looked at yet.
CALM_STEP_S: Final = 0.025


_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Lately(Generic[_K, _V]):
    """A mapping that forgets: what was put in lately, in two generations of so many seconds."""

    __slots__ = ("_current", "_kept_s", "_previous", "_turned_at")

    def __init__(self, kept_s: float = FINISHED_KEPT_S) -> None:
        self._kept_s = kept_s
        self._current: dict[_K, _V] = {}
        self._previous: dict[_K, _V] = {}
        self._turned_at = 0.0

    def put(self, key: _K, value: _V) -> None:
        self._current[key] = value

    def put_all(self, keys: Iterable[_K], value: _V) -> None:
        self._current.update(dict.fromkeys(keys, value))

    def generations(self) -> tuple[Container[_K], Container[_K]]:
        """Where to look for a key, for whoever looks for many: good until anything else happens."""
        return self._current, self._previous

    def discard(self, key: _K) -> None:
        self._current.pop(key, None)
        self._previous.pop(key, None)

    def get(self, key: _K) -> _V | None:
        return self._current.get(key) or self._previous.get(key)

    def __contains__(self, key: _K) -> bool:
        return key in self._current or key in self._previous

    def forget_older(self, now: float) -> None:
        is_due = now - self._turned_at >= self._kept_s
        if is_due or len(self._current) >= FINISHED_KEPT:
            self._previous, self._current = self._current, {}
            self._turned_at = now


#: How often it is looked for what to forget, at most. Less often would let more come together.
FORGETS_EVERY_S: Final = 0.25

#: Lanes, each with the time at which it need not wait any longer.
Waiting: TypeAlias = deque[tuple[float, Lane]]

#: For so long, at least, a user of whom something was finished here is known to be ours.
KNOWN_S: Final = 5.0


@dataclass(slots=True)
class Partition:
    """Lanes by key, and what waits to be given back to the broker.

    `received_s` is a clock that runs only while messages can reach us: a closed gate or a lost
    connection must not look like a key that moved. `calm_s` runs with it, but only as far as
    what came has been looked at too. `confirmed_at` is when the question was asked that the broker
    answered last.
    """

    number: int
    is_connected: bool = False
    #: Attempts may start: the broker counts us as its consumer.
    is_trusted: bool = False
    #: What the clock of receiving time showed when the connection began.
    connected_from_s: float = 0.0
    is_receiving: bool = False
    received_s: float = 0.0
    calm_s: float = 0.0
    stepped_at: float = 0.0
    confirmed_at: float = -math.inf
    #: Answers to questions from before this are worth nothing: the process was stopped.
    doubted_at: float = -math.inf
    #: In the order in which their heads became heads.
    lanes: OrderedDict[LaneKey, Lane] = field(default_factory=OrderedDict)
    #: Events finished here.
    finished: Lately[Position, None] = field(default_factory=Lately)
    #: Keys of which a redelivered event was finished here: what comes behind it was attempted by
    #: nobody, however often the broker sent it.
    served: Lately[LaneKey, None] = field(default_factory=Lately)
    #: Keys of which anything was finished here, while they were surely ours.
    known: Lately[LaneKey, None] = field(default_factory=lambda: Lately(KNOWN_S))
    #: Keys of which an event was sent to us that another worker had, and that was finished here: it
    #: opened no lane that would wait for what comes with it, so the next one does.
    moving: Lately[LaneKey, None] = field(default_factory=lambda: Lately(KNOWN_S))
    #: What other workers told of events that they gave back.
    notes: Lately[Position, Note] = field(default_factory=Lately)
    #: Lanes that wait for a predecessor that may be on its way, in the order in which that ends on
    #: the clock `calm_s`. Nearly every lane may be one of them, and timers would cost more.
    settling: Waiting = field(default_factory=deque)
    #: The same for what a dead worker may have held.
    meeting: Waiting = field(default_factory=deque)
    #: Lanes whose turn came while no attempt could start.
    withheld: list[Lane] = field(default_factory=list)
    #: Heads whose backoff is over.
    due_heads: deque[Entry] = field(default_factory=deque)
    #: Lanes that have use for payloads which stayed at the broker.
    due_pages: deque[Lane] = field(default_factory=deque)
    #: Lanes to be given back, each with the position up to which that is done.
    due_tails: deque[tuple[Lane, Position]] = field(default_factory=deque)
    #: No negative acknowledgement before this.
    next_burst: float = 0.0
    forgets_at: float = 0.0

    def connect(self, now: float) -> None:
        """Nothing waits here any more, and of nobody it is known that he is ours."""
        for queue in (self.due_heads, self.due_pages, self.due_tails, self.settling, self.meeting):
            queue.clear()
        self.withheld.clear()
        self.known = Lately(KNOWN_S)
        self.is_connected = True
        self.connected_from_s = self.received_s
        self.stepped_at = self.confirmed_at = now

    def step(self, now: float, freeze_s: float) -> None:
        if self.can_receive:
            passed_s = now - self.stepped_at
            self.received_s += min(passed_s, MAX_STEP_S)
            self.calm_s += min(passed_s, CALM_STEP_S)
        if now - self.stepped_at > freeze_s:
            self.confirmed_at = -math.inf
            self.doubted_at = now
        self.stepped_at = now
        if now >= self.forgets_at:
            self.forgets_at = now + FORGETS_EVERY_S
            self._forget_older(now)

    def _forget_older(self, now: float) -> None:
        self.finished.forget_older(now)
        self.served.forget_older(now)
        self.known.forget_older(now)
        self.moving.forget_older(now)
        self.notes.forget_older(now)

    def attempts_before(self, key: LaneKey, message: Received) -> int:
        """How often an event was attempted elsewhere that has no predecessor here.

        It was a head wherever it has been, so the broker's count is true; unless another worker
        knew better, or its predecessor was finished here: then it was attempted nowhere.
        """
        if note := self.notes.get(message.position):
            return note.attempts_at(message.redelivery_count)
        count = message.redelivery_count
        return count if count and key not in self.served else 0

    def confirm(self, asked_at: float) -> None:
        if asked_at >= self.doubted_at:
            self.confirmed_at = max(self.confirmed_at, asked_at)

    def judge(self, now: float, lease_s: float) -> None:
        """See whether the broker is sure to count us as its consumer still."""
        self.is_trusted = self.is_connected and now - self.confirmed_at < lease_s

    def is_sure(self, now: float, freeze_s: float, lease_s: float) -> bool:
        """Whether an attempt may begin at this moment, which must be read anew.

        After a longer gap since the last step the process may have been stopped; the next step
        notices.
        """
        if now - self.stepped_at > freeze_s:
            return False
        self.judge(now, lease_s)
        return self.is_trusted

    def oldest_head_s(self, now: float) -> float:
        """For how long the head that waits longest has been the head; moved keys don't count."""
        waiting = (lane for lane in self.lanes.values() if not lane.is_given_back)
        oldest = next(waiting, None)
        return now - oldest.head_since if oldest else 0.0

    @property
    def can_receive(self) -> bool:
        """Whether messages can reach us."""
        return self.is_receiving and self.is_connected and self.is_trusted

    @property
    def is_settling(self) -> bool:
        """Whether a lane waits for a predecessor, and one may come."""
        return bool(self.settling or self.meeting) and self.can_receive

    @property
    def settles_in_s(self) -> float:
        """When the clock `calm_s` needs its next step for those that wait for a predecessor."""
        until = min(queue[0][0] for queue in (self.settling, self.meeting) if queue)
        return min(until - self.calm_s, CALM_STEP_S)

    @property
    def connected_s(self) -> float:
        """For how long it was received from since the connection began."""
        return self.received_s - self.connected_from_s

    @property
    def owes_redelivery(self) -> bool:
        return self.is_connected and bool(self.due_heads or self.due_pages or self.due_tails)


class Partitions(dict[int, Partition]):
    """The partitions that a worker receives from, by number."""

    def __init__(self) -> None:
        super().__init__()
        #: Nothing is received but what is delivered once more.
        self.is_live_stopped = False
        #: Enough of that waits here.
        self._is_once_more_full = False
        #: The receive gate.
        self.is_open = True
        #: How often it changed what is received.
        self.changes = 0

    def receive(self, *, is_open: bool) -> None:
        """Whether messages can reach us: the receive gate is open."""
        self.is_open = is_open
        self.changes += 1
        for number, partition in self.items():
            partition.is_receiving = self.receives(number)

    def receives(self, number: int) -> bool:
        """Whether messages of this partition can reach us."""
        stopped = self._is_once_more_full if number == WHOLE else self.is_live_stopped
        return self.is_open and not stopped

    def stop_live(self, *, is_stopped: bool) -> None:
        self.is_live_stopped = is_stopped
        self.receive(is_open=self.is_open)

    def limit_once_more(self, ready: int, limit: int) -> None:
        """Of what is delivered once more, so many lanes could be attempted; take more or not.

        What is live must not wait behind all of it. Open again at half of the limit.
        """
        is_full = ready >= (limit // 2 if self._is_once_more_full else limit)
        if is_full is not self._is_once_more_full:
            self._is_once_more_full = is_full
            self.receive(is_open=self.is_open)

    def is_anything_once_more(self) -> bool:
        """Whether something is here that the destination gets once more."""
        return WHOLE in self and bool(self[WHOLE].lanes)

    def judge(self, now: float, lease_s: float) -> None:
        for partition in self.values():
            partition.judge(now, lease_s)

    def unsure(self) -> set[int]:
        """Connected ones of which nothing is attempted until the broker answers."""
        return {n for n, p in self.items() if p.is_connected and not p.is_trusted}

    def to_confirm(self, now: float, age_s: float) -> list[int]:
        """Connected ones whose last answer is older than that."""
        return [n for n, p in self.items() if p.is_connected and now - p.confirmed_at >= age_s]

    def oldest_head_s(self, now: float) -> float:
        return max((p.oldest_head_s(now) for p in self.values()), default=0.0)
