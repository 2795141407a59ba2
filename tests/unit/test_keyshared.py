from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typing_extensions import override

from keylane.broker import OutgoingMessage, Position
from keylane.keyshared import KeySharedSubscription
from keylane.partitionlog import MemoryMessage, PartitionLog

Sent = list[tuple[str, MemoryMessage]]


class Partition:
    """A log with one subscription, spoken to by keys and values."""

    def __init__(self, **limits: int) -> None:
        self.log = PartitionLog()
        self.subscription = KeySharedSubscription(self.log, **limits)

    def publish(self, key: str, *values: str) -> list[Position]:
        return [self.log.append(OutgoingMessage(key, value.encode())) for value in values]

    def sends(self, *, skip_replay: bool = False) -> list[tuple[str, str]]:
        sent = self.subscription.dispatch(skip_replay=skip_replay)
        assert self.subscription.violations() == []
        return [(name, message.value().decode()) for name, message in sent]

    def key_of(self, name: str) -> str:
        keys = (f"key-{n}" for n in range(1000))
        return next(key for key in keys if self.subscription.owner_of(key) == name)

    def key_that_moves(self, old: str, new: str) -> str:
        """A key of `old`'s that will be `new`'s as soon as it joins."""
        ring = KeySharedSubscription(PartitionLog())
        ring.join(old, 0)
        ring.join(new, 0)
        return next(k for k in (f"key-{n}" for n in range(1000)) if ring.owner_of(k) == new)


@pytest.fixture
def partition() -> Partition:
    return Partition()


def test_positions_grow_over_ledgers_and_lead_back_to_their_message() -> None:
    log = PartitionLog()
    positions = [log.append(OutgoingMessage("Ada", b"1")), log.append(OutgoingMessage("Ada", b"2"))]
    log.start_ledger()
    log.start_ledger()
    positions.append(log.append(OutgoingMessage("Ada", b"3")))

    assert positions == [(0, 0, -1), (0, 1, -1), (2, 0, -1)]
    assert [log.index_of(position) for position in positions] == [0, 1, 2]
    for unknown in [(0, 2, -1), (1, 0, -1), (2, 1, -1), (3, 0, -1), (0, 0, 0), (0, -1, -1)]:
        assert log.index_of(unknown) is None


def test_a_consumer_is_sent_as_many_as_it_permits(partition: Partition) -> None:
    partition.publish("Ada", *"abcd")
    partition.subscription.join("one", 2)

    assert partition.sends() == [("one", "a"), ("one", "b")]
    assert partition.sends() == []
    partition.subscription.permits("one", 1)
    assert partition.sends() == [("one", "c")]


def test_nobody_is_sent_what_is_acknowledged(partition: Partition) -> None:
    a, b, c = partition.publish("Ada", *"abc")
    partition.subscription.join("one", 9)
    partition.sends()
    partition.subscription.acknowledge("one", b)
    partition.subscription.acknowledge("one", b)
    partition.subscription.acknowledge("one", (9, 9, -1))
    partition.subscription.acknowledge("stranger", a)
    assert partition.subscription.backlog() == 2

    partition.subscription.leave("one")
    partition.subscription.join("two", 9)

    assert partition.sends() == [("two", "a"), ("two", "c")]
    partition.subscription.acknowledge("two", a)
    partition.subscription.acknowledge("two", c)
    assert partition.subscription.backlog() == 0
    assert partition.subscription.pending() == {"two": []}


def test_whoever_has_a_message_now_it_is_done_when_somebody_acknowledges_it(
    partition: Partition,
) -> None:
    positions = partition.publish("Ada", *"abc")
    partition.subscription.join("one", 9)
    partition.subscription.join("two", 9)
    owner = partition.subscription.owner_of("Ada")
    other = "two" if owner == "one" else "one"
    partition.sends()

    partition.subscription.acknowledge(other, positions[0])
    partition.subscription.leave(owner)
    partition.subscription.acknowledge(other, positions[1])

    assert partition.sends() == [(other, "c")]


def test_keys_stay_where_they_are_when_their_owner_is_not_concerned(partition: Partition) -> None:
    keys = [f"key-{n}" for n in range(2_000)]
    owners: list[dict[str, str]] = []
    for name in ("one", "two", "three"):
        partition.subscription.join(name, 0)
        owners.append({key: partition.subscription.owner_of(key) for key in keys})
    partition.subscription.leave("three")
    owners.append({key: partition.subscription.owner_of(key) for key in keys})

    assert {key: o for key, o in owners[2].items() if o != "three"}.items() <= owners[1].items()
    assert owners[3] == owners[1]
    shares = Counter(owners[2].values())
    assert all(400 < shares[name] < 1_000 for name in ("one", "two", "three")), shares


def test_a_name_can_join_only_once(partition: Partition) -> None:
    partition.subscription.join("one", 1)

    with pytest.raises(ValueError, match="already"):
        partition.subscription.join("one", 1)


def test_without_consumers_nobody_owns_a_key(partition: Partition) -> None:
    with pytest.raises(LookupError):
        partition.subscription.owner_of("Ada")
    partition.publish("Ada", "a")
    assert partition.sends() == []


def test_a_moved_key_waits_until_its_old_owner_has_nothing_of_it(partition: Partition) -> None:
    key = partition.key_that_moves("old", "new")
    partition.subscription.join("old", 9)
    first, second = partition.publish(key, *"12")
    partition.sends()
    partition.subscription.join("new", 9)
    partition.publish(key, "3")

    assert partition.sends() == []
    partition.subscription.acknowledge("old", first)
    assert partition.sends() == []
    partition.subscription.acknowledge("old", second)
    assert partition.sends() == [("new", "3")]


def test_a_moved_head_is_sent_to_nobody_until_its_tail_is_given_back(partition: Partition) -> None:
    key = partition.key_that_moves("old", "new")
    partition.subscription.join("old", 9)
    head, tail = partition.publish(key, *"12")
    partition.sends()
    partition.subscription.join("new", 9)

    partition.subscription.negative_acknowledge("old", [head])
    assert partition.sends() == []
    partition.subscription.negative_acknowledge("old", [tail])

    sent = partition.subscription.dispatch()
    assert [(name, m.position, m.redelivery_count) for name, m in sent] == [
        ("new", head, 1),
        ("new", tail, 1),
    ]


def test_a_key_that_moved_back_goes_on_at_once(partition: Partition) -> None:
    key = partition.key_that_moves("old", "new")
    partition.subscription.join("old", 9)
    partition.publish(key, "1")
    partition.sends()
    partition.subscription.join("new", 9)
    partition.publish(key, "2")
    assert partition.sends() == []

    partition.subscription.leave("new")

    assert partition.sends() == [("old", "2")]


def test_what_a_leaving_consumer_had_holds_newer_messages_back(partition: Partition) -> None:
    partition.subscription.join("one", 9)
    partition.subscription.join("two", 9)
    key = partition.key_of("one")
    partition.publish(key, *"12")
    partition.sends()
    partition.subscription.leave("one")
    partition.publish(key, "3")

    assert partition.sends(skip_replay=True) == []
    assert partition.sends() == [("two", "1"), ("two", "2"), ("two", "3")]


def test_a_negatively_acknowledged_message_holds_nothing_back(partition: Partition) -> None:
    partition.subscription.join("one", 9)
    (first,) = partition.publish("Ada", "1")
    partition.sends()
    partition.subscription.negative_acknowledge("one", [first])
    partition.publish("Ada", "2")

    assert partition.sends(skip_replay=True) == [("one", "2")]
    assert partition.sends() == [("one", "1")]


def test_a_replay_that_finds_no_permits_holds_newer_messages_back(partition: Partition) -> None:
    partition.subscription.join("one", 1)
    partition.subscription.join("two", 9)
    key = partition.key_of("one")
    (first,) = partition.publish(key, "1")
    partition.sends()
    partition.subscription.negative_acknowledge("one", [first])
    partition.publish(key, "2")
    assert partition.sends() == []

    partition.subscription.permits("one", 1)

    assert partition.sends(skip_replay=True) == []
    assert partition.sends() == [("one", "1")]


def test_only_what_is_pending_at_a_consumer_can_be_given_back_by_it(partition: Partition) -> None:
    partition.subscription.join("one", 9)
    first, second = partition.publish("Ada", *"12")
    partition.sends()
    partition.subscription.acknowledge("one", first)

    partition.subscription.negative_acknowledge("one", [first, (9, 9, -1)])
    partition.subscription.negative_acknowledge("stranger", [second])
    partition.subscription.negative_acknowledge("one", [second])
    partition.subscription.negative_acknowledge("one", [second])

    assert partition.sends() == [("one", "2")]
    assert partition.subscription.pending() == {"one": [second]}


@pytest.mark.parametrize("how", ["leave", "unload"])
def test_counts_restart_when_nobody_is_left(partition: Partition, how: str) -> None:
    partition.subscription.join("one", 9)
    positions = partition.publish("Ada", *"12")
    partition.sends()
    partition.subscription.negative_acknowledge("one", positions)
    partition.sends()

    if how == "leave":
        partition.subscription.leave("one")
    else:
        partition.subscription.unload()
    partition.subscription.join("one", 9)

    assert [m.redelivery_count for _, m in partition.subscription.dispatch()] == [0, 0]


def test_nothing_new_is_read_once_the_replay_queue_is_long() -> None:
    partition = Partition(look_ahead_per_consumer=5, look_ahead=8)
    partition.subscription.join("stuck", 0)
    partition.subscription.join("free", 9)
    stuck, free = partition.key_of("stuck"), partition.key_of("free")
    partition.publish(stuck, *"1234567")
    partition.publish(free, "a")
    partition.publish(stuck, *"89")
    partition.publish(free, "b")

    assert partition.sends() == [("free", "a")]
    assert len(partition.subscription.replay_queue()) == 8
    partition.subscription.permits("stuck", 2)
    assert partition.sends() == [("stuck", "1"), ("stuck", "2"), ("free", "b")]


def test_keyless_messages_are_shared_by_their_position(partition: Partition) -> None:
    partition.subscription.join("one", 99)
    partition.subscription.join("two", 99)
    partition.publish("", *"0123456789" * 3)

    assert {name for name, _ in partition.sends()} == {"one", "two"}


def test_a_message_costs_the_same_whatever_lies_before_it() -> None:
    """Tens of thousands of messages behind a stuck key, one by one: no scan may hide in it."""
    partition = Partition()
    partition.subscription.join("one", 10)
    partition.subscription.join("two", 0)
    stuck, free = partition.key_of("two"), partition.key_of("one")
    partition.publish(stuck, *["stuck"] * 3_000)
    started = time.process_time()

    for _ in range(20_000):
        partition.publish(free, "event")
        ((name, message),) = partition.subscription.dispatch()
        partition.subscription.acknowledge(name, message.position)
        partition.subscription.permits(name, 1)

    assert time.process_time() - started < 5


ALL_NAMES = ("one", "two", "three")
NAMES = st.sampled_from(ALL_NAMES)
ALL_KEYS = ("Ada", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus")
KEYS = st.sampled_from([*ALL_KEYS, ""])
PICKS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


class KeySharedModel(RuleBasedStateMachine):
    """Anything may happen in any order; what the lanes rely on must hold all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.log = PartitionLog()
        self.subscription = KeySharedSubscription(
            self.log, ring_points=7, look_ahead_per_consumer=6, look_ahead=15
        )
        self.permits: dict[str, int] = {}
        self.pending: dict[Position, str] = {}
        self.acknowledged: set[Position] = set()
        self.counts: Counter[Position] = Counter()
        self.overtakable: set[Position] = set()

    @initialize(names=st.sets(NAMES, min_size=1), permits=st.integers(5, 20))
    def begin(self, names: set[str], permits: int) -> None:
        for name in sorted(names):
            self.join(name, permits)
        for key in ALL_KEYS:
            self.publish(key, 2)
        self.dispatch(skip_replay=False)

    @rule(key=KEYS, times=st.integers(1, 5))
    def publish(self, key: str, times: int) -> None:
        for _ in range(times):
            self.log.append(OutgoingMessage(key, b""))

    @precondition(lambda self: len(self.permits) < len(ALL_NAMES))
    @rule(name=NAMES, permits=st.integers(0, 8))
    def joins(self, name: str, permits: int) -> None:
        self.join(self.nearest(name, set(ALL_NAMES) - self.permits.keys()), permits)

    def join(self, name: str, permits: int) -> None:
        self.subscription.join(name, permits)
        self.permits[name] = permits

    def nearest(self, name: str, among: Iterable[str]) -> str:
        """A name of those, so that no step is spent on nothing."""
        return min(among, key=lambda n: (n != name, n))

    @precondition(lambda self: self.permits)
    @rule(name=NAMES)
    def leaves(self, name: str) -> None:
        self.leave(self.nearest(name, self.permits))

    def leave(self, name: str) -> None:
        self.subscription.leave(name)
        del self.permits[name]
        self.pending = {p: holder for p, holder in self.pending.items() if holder != name}
        if not self.permits:
            self.forget()

    @precondition(lambda self: self.counts)
    @rule(names=st.sets(NAMES, min_size=1))
    def unload(self, names: set[str]) -> None:
        self.log.start_ledger()
        self.subscription.unload()
        self.forget()
        for name in sorted(names):
            self.join(name, 5)

    def forget(self) -> None:
        self.permits.clear()
        self.pending.clear()
        self.counts.clear()
        self.overtakable.clear()

    @precondition(lambda self: self.permits)
    @rule(name=NAMES, more=st.integers(1, 8))
    def permit(self, name: str, more: int) -> None:
        name = self.nearest(name, self.permits)
        self.subscription.permits(name, more)
        self.permits[name] += more

    @precondition(lambda self: self.pending)
    @rule(picks=PICKS)
    def acknowledge(self, picks: list[int]) -> None:
        for position in self.picked(picks):
            if position in self.pending:
                self.done(self.pending[position], position)

    def picked(self, picks: list[int]) -> list[Position]:
        held = sorted(self.pending)
        return [held[pick % len(held)] for pick in picks]

    @precondition(lambda self: self.permits and len(self.log) > 0)
    @rule(name=NAMES, pick=st.integers(0, 200))
    def acknowledge_anything(self, name: str, pick: int) -> None:
        position = self.log.messages[pick % len(self.log)].position
        self.done(self.nearest(name, self.permits), position)

    def done(self, name: str, position: Position) -> None:
        self.subscription.acknowledge(name, position)
        self.pending.pop(position, None)
        self.acknowledged.add(position)
        self.counts.pop(position, None)

    @precondition(lambda self: self.pending)
    @rule(picks=PICKS)
    def negative_acknowledge(self, picks: list[int]) -> None:
        for position in dict.fromkeys(self.picked(picks)):
            self.subscription.negative_acknowledge(self.pending.pop(position), [position])
            self.counts[position] += 1
            self.overtakable.add(position)

    @precondition(lambda self: self.permits)
    @rule()
    def send(self) -> None:
        self.dispatch(skip_replay=False)

    @precondition(lambda self: self.permits)
    @rule()
    def send_new_ones_only(self) -> None:
        self.dispatch(skip_replay=True)

    def dispatch(self, *, skip_replay: bool) -> None:
        if not skip_replay:
            self.overtakable.clear()
        for name, message in self.subscription.dispatch(skip_replay=skip_replay):
            self.see(name, message)
        if not skip_replay:
            self.nothing_waits_without_a_reason()

    def see(self, name: str, message: MemoryMessage) -> None:
        position = message.position
        assert position not in self.pending
        assert position not in self.acknowledged
        assert message.redelivery_count == self.counts[position]
        self.permits[name] -= 1
        assert self.permits[name] >= 0
        self.pending[position] = name
        for other in self.log.messages:
            if other.key_hash != message.stored.key_hash or other.position in self.acknowledged:
                continue
            assert self.pending.get(other.position, name) == name, "two consumers have the hash"
            if other.position < position and other.position not in self.overtakable:
                assert self.pending.get(other.position) == name, "an earlier one was passed over"

    def nothing_waits_without_a_reason(self) -> None:
        holders = {self.log.at(p).key_hash: name for p, name in self.pending.items()}
        for position in self.subscription.replay_queue():
            stored = self.log.at(position)
            owner = self.subscription.owner_of(stored.key or f"{position[0]}:{position[1]}")
            is_draining = holders.get(stored.key_hash, owner) != owner
            assert is_draining or self.permits[owner] == 0

    @invariant()
    def nothing_is_broken(self) -> None:
        assert self.subscription.violations() == []

    @invariant()
    def both_know_who_has_what(self) -> None:
        pending = {p: name for name, held in self.subscription.pending().items() for p in held}
        assert pending == self.pending
        assert self.subscription.backlog() == len(self.log) - len(self.acknowledged)

    @override
    def teardown(self) -> None:
        """Whatever happened, the last consumer gets everything."""
        for name in list(self.permits):
            self.leave(name)
        self.join("last", len(self.log) + 1)
        self.dispatch(skip_replay=False)
        everything = {m.position for m in self.log.messages}
        assert self.pending.keys() == everything - self.acknowledged


KeySharedModel.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
# A failure takes a while to be made small.
test_key_shared_keeps_its_promises_whatever_happens = pytest.mark.timeout(120)(
    KeySharedModel.TestCase
)
