"""A Key_Shared subscription on one partition's log that dispatches as Pulsar 4 does.

Pure: no event loop, no clock, no randomness. What it keeps of Pulsar (PIP-379; read in the source
of 4.0, and tests/contract runs on both):

- A hash ring of consumer names decides who owns a key's hash. The hash functions are others than
  Pulsar's, so a key may have another owner here, but the same one in every run.
- A hash that moved is sent to its new owner only after the old one has nothing of it unacknowledged
  (the hash is draining).
- What a leaving consumer had unacknowledged goes back into the replay queue with its hash, which
  holds newer messages of that hash back. A negatively acknowledged message goes back without.
- The replay queue is sent before anything new, by position. What can't be sent stays in it, from
  then on with its hash, and once it is long nothing new is read for anybody.
- Redelivery counts live in memory: they restart with `unload` and when the last consumer leaves.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from keylane.broker import Position
from keylane.partitionlog import MemoryMessage, PartitionLog, StoredMessage, hash_of

#: Pulsar's defaults: points on the ring a consumer, and how many positions the replay queue may
#: hold, a consumer and in all, before nothing new is read.
RING_POINTS: Final = 100
LOOK_AHEAD_PER_CONSUMER: Final = 2_000
LOOK_AHEAD: Final = 20_000


@dataclass(slots=True, eq=False)
class _Member:
    name: str
    permits: int
    #: What it was sent and hasn't given back, with the hash.
    pending: dict[Position, int] = field(default_factory=dict)
    #: What the replay queue has for it: a heap, in which acknowledged positions may linger.
    waiting: list[Position] = field(default_factory=list)


@dataclass(slots=True)
class _Hold:
    """Who has messages of a hash unacknowledged, and how many."""

    member: _Member
    messages: int = 0


class KeySharedSubscription:
    """The dispatcher of one subscription on one partition, from the log's first message.

    Nothing is sent by itself: after any other call, `dispatch` says what the broker would send now.
    Calls that name a consumer which has not joined are ignored, as what arrives over a lost
    connection is.
    """

    def __init__(
        self,
        log: PartitionLog,
        *,
        ring_points: int = RING_POINTS,
        look_ahead_per_consumer: int = LOOK_AHEAD_PER_CONSUMER,
        look_ahead: int = LOOK_AHEAD,
    ) -> None:
        self._log = log
        self._ring = _Ring(ring_points)
        self._look_ahead_per_consumer = look_ahead_per_consumer
        self._look_ahead = look_ahead
        self._members: dict[str, _Member] = {}
        self._holds: dict[int, _Hold] = {}
        # Everything before `_done` is acknowledged, and what `_acknowledged` names behind it.
        self._done = 0
        self._acknowledged: set[Position] = set()
        self._next = 0
        self._redeliveries: Counter[Position] = Counter()
        # The replay queue: None stands for a message without its hash. Each position with a hash
        # lies either in its owner's heap or, while its hash drains, in `_draining`.
        self._replay: dict[Position, int | None] = {}
        self._unhashed: list[Position] = []
        self._draining: dict[int, list[Position]] = {}
        self._replayed_hashes: Counter[int] = Counter()

    def join(self, name: str, permits: int) -> None:
        """Add a consumer that takes `permits` messages; the name must be new."""
        if name in self._members:
            raise ValueError(f"A consumer '{name}' is already there")
        self._members[name] = _Member(name, permits)
        self._ring.add(name)
        self._file_replay()

    def leave(self, name: str) -> None:
        """Remove a consumer, however it went: what it had goes back with its hashes."""
        member = self._members.pop(name, None)
        if member is None:
            return
        self._ring.remove(name)
        if not self._members:
            self._start_over()
            return
        for position, key_hash in member.pending.items():
            self._holds.pop(key_hash, None)
            self._keep_for_replay(position, key_hash)
        self._file_replay()

    def unload(self) -> None:
        """Forget everything but what is acknowledged; all consumers are gone."""
        for name in self._members:
            self._ring.remove(name)
        self._members.clear()
        self._start_over()

    def permits(self, name: str, more: int) -> None:
        """The consumer takes that many messages more."""
        if member := self._members.get(name):
            member.permits += more

    def acknowledge(self, name: str, position: Position) -> None:
        """Done for ever, whoever has it now; harmless when repeated or unknown."""
        index = self._log.index_of(position)
        if name not in self._members or index is None or self._is_acknowledged(index, position):
            return
        key_hash = self._log.at(position).key_hash
        hold = self._holds.get(key_hash)
        if hold and position in hold.member.pending:
            self._release(hold.member, position)
        else:
            self._take_from_replay(position)
        self._redeliveries.pop(position, None)
        self._acknowledged.add(position)
        self._advance()

    def negative_acknowledge(self, name: str, positions: Iterable[Position]) -> None:
        """Take back what is pending at this consumer, without its hash and counted."""
        member = self._members.get(name)
        for position in positions:
            if member and position in member.pending:
                self._release(member, position)
                self._redeliveries[position] += 1
                self._replay[position] = None
                self._unhashed.append(position)

    def dispatch(self, *, skip_replay: bool = False) -> list[tuple[str, MemoryMessage]]:
        """Send all that may be sent now: pairs of consumer and message, in the order of sending.

        `skip_replay` sends only new messages, as Pulsar does when a read was under way while
        messages came back: those that came back without their hash are overtaken.
        """
        sent: list[tuple[str, MemoryMessage]] = []
        if not skip_replay:
            for position in self._unhashed:
                if position in self._replay:
                    self._file(position, self._log.at(position).key_hash)
            self._unhashed.clear()
            for member in self._members.values():
                if member.waiting:
                    self._send_waiting(member, sent)
        self._send_new(sent)
        return sent

    def _send_waiting(self, member: _Member, sent: list[tuple[str, MemoryMessage]]) -> None:
        while member.waiting and member.permits > 0:
            position = heappop(member.waiting)
            key_hash = self._replay.get(position)
            if key_hash is None:
                continue
            if self._is_draining_elsewhere(key_hash, member):
                self._draining.setdefault(key_hash, []).append(position)
            else:
                self._take_from_replay(position)
                sent.append(self._send(member, self._log.at(position)))

    def _send_new(self, sent: list[tuple[str, MemoryMessage]]) -> None:
        messages = self._log.messages
        if self._next >= len(messages):
            return
        permits = sum(max(0, m.permits) for m in self._members.values())
        limit = min(self._look_ahead_per_consumer * len(self._members), self._look_ahead)
        while permits > 0 and self._next < len(messages) and len(self._replay) < limit:
            message = messages[self._next]
            self._next += 1
            if message.position in self._acknowledged:
                continue
            owner = self._members[self._ring.owner(message.key_hash)]
            if self._may_send(owner, message.key_hash):
                sent.append(self._send(owner, message))
                permits -= 1
            else:
                self._file(message.position, message.key_hash)

    def _may_send(self, owner: _Member, key_hash: int) -> bool:
        return (
            owner.permits > 0
            and key_hash not in self._replayed_hashes
            and not self._is_draining_elsewhere(key_hash, owner)
        )

    def _is_draining_elsewhere(self, key_hash: int, owner: _Member) -> bool:
        hold = self._holds.get(key_hash)
        return hold is not None and hold.member is not owner

    def _send(self, member: _Member, message: StoredMessage) -> tuple[str, MemoryMessage]:
        hold = self._holds.setdefault(message.key_hash, _Hold(member))
        hold.messages += 1
        member.permits -= 1
        member.pending[message.position] = message.key_hash
        return member.name, MemoryMessage(message, self._redeliveries.get(message.position, 0))

    def _release(self, member: _Member, position: Position) -> None:
        """Take a message out of the consumer's hands; the last one of its hash ends a draining."""
        key_hash = member.pending.pop(position)
        hold = self._holds[key_hash]
        hold.messages -= 1
        if hold.messages == 0:
            del self._holds[key_hash]
            for waiting in self._draining.pop(key_hash, ()):
                heappush(self._members[self._ring.owner(key_hash)].waiting, waiting)

    def _file(self, position: Position, key_hash: int) -> None:
        self._keep_for_replay(position, key_hash)
        heappush(self._members[self._ring.owner(key_hash)].waiting, position)

    def _keep_for_replay(self, position: Position, key_hash: int) -> None:
        self._replay[position] = key_hash
        self._replayed_hashes[key_hash] += 1

    def _take_from_replay(self, position: Position) -> None:
        key_hash = self._replay.pop(position, None)
        if key_hash is not None:
            self._replayed_hashes[key_hash] -= 1
            if not self._replayed_hashes[key_hash]:
                del self._replayed_hashes[key_hash]

    def _file_replay(self) -> None:
        """Sort the replay queue by its owners anew, as the ring has changed."""
        self._draining.clear()
        for member in self._members.values():
            member.waiting.clear()
        # A sorted list is a heap.
        for position in sorted(self._replay):
            key_hash = self._replay[position]
            if key_hash is not None:
                self._members[self._ring.owner(key_hash)].waiting.append(position)

    def _start_over(self) -> None:
        self._next = self._done
        for forgotten in (
            self._holds,
            self._redeliveries,
            self._replay,
            self._unhashed,
            self._draining,
            self._replayed_hashes,
        ):
            forgotten.clear()

    def _is_acknowledged(self, index: int, position: Position) -> bool:
        return index < self._done or position in self._acknowledged

    def _advance(self) -> None:
        messages = self._log.messages
        while self._done < len(messages) and messages[self._done].position in self._acknowledged:
            self._acknowledged.remove(messages[self._done].position)
            self._done += 1
        self._next = max(self._next, self._done)

    def owner_of(self, key: str) -> str:
        """The consumer that gets this key's messages; raises `LookupError` while there is none."""
        return self._ring.owner(hash_of(key))

    def backlog(self) -> int:
        """Messages that are not acknowledged, sent or not."""
        return len(self._log) - self._done - len(self._acknowledged)

    def pending(self) -> dict[str, list[Position]]:
        """What each consumer was sent and has not given back, in the order of sending."""
        return {name: list(member.pending) for name, member in self._members.items()}

    def replay_queue(self) -> list[Position]:
        return sorted(self._replay)

    def violations(self) -> list[str]:
        """What must never be: empty, or a sentence for each broken promise. Scans everything."""
        found: list[str] = []
        holders: dict[int, str] = {}
        for name, member in self._members.items():
            for position, key_hash in member.pending.items():
                if holders.setdefault(key_hash, name) != name:
                    found.append(f"Hash {key_hash} is pending at {holders[key_hash]} and {name}")
                if position in self._replay:
                    found.append(f"{position} is pending at {name} and in the replay queue")
                if position in self._acknowledged:
                    found.append(f"{position} is pending at {name} and acknowledged")
        found += [
            f"{p} is to be replayed and acknowledged"
            for p in self._replay.keys() & self._acknowledged
        ]
        return found


class _Ring:
    """Consistent hashing: `points` places on a circle for each name."""

    def __init__(self, points: int) -> None:
        self._points = points
        self._ring: list[tuple[int, str]] = []
        self._owners: dict[int, str] = {}

    def add(self, name: str) -> None:
        self._ring = sorted([*self._ring, *self._places(name)])
        self._owners.clear()

    def remove(self, name: str) -> None:
        self._ring = [place for place in self._ring if place[1] != name]
        self._owners.clear()

    def owner(self, key_hash: int) -> str:
        owner = self._owners.get(key_hash)
        if owner is None:
            if not self._ring:
                raise LookupError("No consumer has joined")
            place = bisect_left(self._ring, (key_hash, ""))
            owner = self._owners[key_hash] = self._ring[place % len(self._ring)][1]
        return owner

    def _places(self, name: str) -> Iterable[tuple[int, str]]:
        for point in range(self._points):
            digest = hashlib.blake2b(f"{name}\0{point}".encode(), digest_size=4).digest()
            yield int.from_bytes(digest), name
