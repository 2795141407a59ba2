"""What Key_Shared does with keys, consumers and what comes back: the ground the lanes stand on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from keylane.broker import REDELIVERY_INTERVAL_S, Position, Received
from tests.contract.scene import Scene, Worker
from tests.messages import positions
from tests.waiting import until

KEYS = [f"user-{n}" for n in range(40)]


async def test_messages_of_a_key_arrive_in_order(scene: Scene) -> None:
    workers = [await scene.worker() for _ in range(3)]
    for value in "abcde":
        for key in KEYS:
            await scene.publish(key, value)

    await until(lambda: sum(len(w.received) for w in workers) == 5 * len(KEYS))

    assert set.union(*(w.keys() for w in workers)) == set(KEYS)
    for worker in workers:
        keys = worker.keys()
        assert keys, "every worker has a share"
        assert all(worker.values(key) == list("abcde") for key in keys)


async def test_a_negatively_acknowledged_message_comes_back_alone_with_its_count_raised(
    scene: Scene,
) -> None:
    worker = await scene.worker()
    await scene.publish("Ada", *"abc")
    await worker.gets(*"abc")

    worker.consumer.negative_acknowledge(positions(worker.received[:1]))
    await worker.gets(*"abca")
    worker.consumer.negative_acknowledge(positions(worker.received[-1:]))
    await worker.gets(*"abcaa")

    await scene.publish("Ada", "marker")
    await worker.gets(*"abcaa", "marker")
    assert [m.redelivery_count for m in worker.received] == [0, 0, 0, 1, 2, 0]
    assert worker.received[4].position == worker.received[0].position


async def test_many_given_back_at_once_return_in_order(scene: Scene) -> None:
    worker = await scene.worker()
    await scene.publish("Ada", *"abcdefgh")
    await worker.gets(*"abcdefgh")

    # In the order of their positions: on a busy machine the client may send them in two parts.
    worker.consumer.negative_acknowledge(positions(worker.received))

    await worker.gets(*"abcdefgh", *"abcdefgh")
    assert {m.redelivery_count for m in worker.received[8:]} == {1}


async def test_calls_that_keep_their_distance_are_each_answered(scene: Scene) -> None:
    worker = await scene.worker()
    await scene.publish("Ada", *"abc")
    await worker.gets(*"abc")

    for message in worker.received[:3]:
        worker.consumer.negative_acknowledge([message.position])
        # The distance is the point here.
        await asyncio.sleep(REDELIVERY_INTERVAL_S)

    await worker.gets(*"abc", *"abc")


async def test_newer_messages_of_its_key_overtake_a_negatively_acknowledged_one(
    scene: Scene,
) -> None:
    """The stock behaviour for which this project exists: a retry loses the key's order."""
    done: list[str] = []

    def fail_the_first_attempt(worker: Worker, batch: Sequence[Received]) -> None:
        for message in batch:
            if message.value() == b"1" and message.redelivery_count == 0:
                worker.consumer.negative_acknowledge([message.position])
            else:
                worker.consumer.acknowledge([message])
                done.append(message.value().decode())

    await scene.cluster.create_subscription(scene.topic, "crm")
    await scene.publish("Ada", *"123")
    worker = await scene.worker(react=fail_the_first_attempt)

    await scene.backlog_is(0)
    assert done == list("231")
    assert worker.values() == list("1231")


async def test_counts_restart_when_the_last_consumer_leaves(scene: Scene) -> None:
    first = await scene.worker()
    await scene.publish("Ada", *"ab")
    await first.gets(*"ab")
    first.consumer.negative_acknowledge(positions(first.received[:1]))
    await first.gets(*"aba")

    await first.consumer.close()
    second = await scene.worker()

    await second.gets(*"ab")
    assert [m.redelivery_count for m in second.received] == [0, 0]


async def test_counts_outlive_a_consumer_while_another_stays(scene: Scene) -> None:
    first = await scene.worker()
    await scene.publish("Ada", *"ab")
    await first.gets(*"ab")
    first.consumer.negative_acknowledge(positions(first.received[:1]))
    await first.gets(*"aba")
    second = await scene.worker()

    await first.consumer.close()

    await second.gets(*"ab")
    assert [m.redelivery_count for m in second.received] == [1, 0]


async def test_unloading_the_topic_sends_all_again_uncounted_in_growing_positions(
    scene: Scene,
) -> None:
    worker = await scene.worker()
    await scene.publish("Ada", *"abc")
    await worker.gets(*"abc")
    worker.consumer.acknowledge(worker.received[1:2])
    worker.consumer.negative_acknowledge(positions(worker.received[:1]))
    await worker.gets(*"abca")
    await scene.backlog_is(2)

    await scene.cluster.unload(scene.topic)

    await worker.gets(*"abca", *"ac")
    assert [m.redelivery_count for m in worker.received[4:]] == [0, 0]
    assert worker.consumer.is_connected()
    (later,) = await scene.publish("Ada", "d")
    await worker.gets(*"abca", *"ac", "d")
    assert later > worker.received[2].position


async def test_what_a_consumer_had_in_hand_is_not_handed_over_after_it_lost_its_connection(
    scene: Scene,
) -> None:
    worker = await scene.worker()
    worker.consumer.pause()
    # The client has them at once, and a batch of them is on its way to the paused consumer.
    await scene.publish("Ada", *"abc")
    losses = 0
    is_connected = True

    def is_back() -> bool:
        nonlocal losses, is_connected
        was_connected, is_connected = is_connected, worker.consumer.is_connected()
        losses += was_connected and not is_connected
        return losses == 1 and is_connected

    unloading = asyncio.create_task(scene.cluster.unload(scene.topic))
    await until(is_back)
    await unloading
    worker.consumer.resume()

    await worker.gets(*"abc")
    await scene.publish("Ada", "d")
    await worker.gets(*"abcd")


async def _share_a_moved_key(scene: Scene) -> tuple[Worker, Worker, set[str], set[str]]:
    """One worker has `1` and `2` of every key, then another joins; also the keys kept and moved."""
    old = await scene.worker()
    for key in KEYS:
        await scene.publish(key, "1", "2")
    await until(lambda: len(old.received) == 2 * len(KEYS))
    new = await scene.worker()
    for key in KEYS:
        await scene.publish(key, "3")
    await _everything_so_far_was_sent(scene, old, new)
    kept = {m.key for m in old.received if m.value() == b"3"}
    return old, new, kept, set(KEYS) - kept


_numbers = itertools.count()


async def _everything_so_far_was_sent(scene: Scene, *workers: Worker) -> None:
    """Fresh keys are sent behind everything else: wait for some at each worker."""
    markers: set[str] = set()

    def all_came() -> bool:
        return markers <= set.union(*(w.keys() for w in workers))

    while not all(markers & w.keys() for w in workers):
        batch = {f"marker-{next(_numbers)}" for _ in range(20)}
        markers |= batch
        for key in batch:
            await scene.publish(key, "marker")
        await until(all_came)


async def test_a_moved_key_stays_away_from_its_new_owner_until_the_old_one_is_done(
    scene: Scene,
) -> None:
    old, new, kept, moved = await _share_a_moved_key(scene)
    assert kept
    assert moved
    assert not new.keys() & set(KEYS)

    half_done = [m for m in old.received if m.value() == b"1"]
    old.consumer.acknowledge(half_done)
    await _everything_so_far_was_sent(scene, old, new)
    assert not new.keys() & set(KEYS)

    old.consumer.acknowledge([m for m in old.received if m.value() == b"2"])

    await until(lambda: new.keys() & set(KEYS) == moved, saying=new.keys)
    assert all(new.values(key) == ["3"] for key in moved)
    assert all(old.values(key) == ["1", "2"] for key in moved)


async def test_a_moved_head_comes_back_to_nobody_until_its_tail_is_given_back(scene: Scene) -> None:
    """The circular wait of the lanes: the broker waits for the tail, the tail for the head."""
    old, new, kept, moved = await _share_a_moved_key(scene)
    heads = [m for m in old.received if m.value() == b"1"]

    old.consumer.negative_acknowledge(positions(heads))

    await until(lambda: all(old.values(key) == ["1", "2", "3", "1"] for key in kept))
    await _everything_so_far_was_sent(scene, old, new)
    assert not new.keys() & set(KEYS)
    assert all(old.values(key) == ["1", "2"] for key in moved)

    tails = [m for m in old.received if m.value() == b"2" and m.key in moved]
    old.consumer.negative_acknowledge(positions(tails))

    await until(lambda: all(len(new.of(key)) == 3 for key in moved), saying=new.values)
    for key in moved:
        assert new.values(key) == ["1", "2", "3"]
        assert [m.redelivery_count for m in new.of(key)] == [1, 1, 0]


async def test_a_moved_key_goes_on_at_its_new_owner_when_the_old_one_closes(scene: Scene) -> None:
    old, new, _, moved = await _share_a_moved_key(scene)
    assert moved

    await old.consumer.close()

    await until(lambda: all(len(new.of(key)) == 3 for key in KEYS))
    assert all(new.values(key) == ["1", "2", "3"] for key in KEYS)


async def test_a_key_comes_back_to_a_worker_that_returns_under_its_name(scene: Scene) -> None:
    stays = await scene.worker(name="stays")
    leaves = await scene.worker(name="leaves")
    for key in KEYS:
        await scene.publish(key, "1")
    await until(lambda: len(stays.received) + len(leaves.received) == len(KEYS))
    for worker in (stays, leaves):
        worker.consumer.acknowledge(worker.received)
    await scene.backlog_is(0)

    await leaves.consumer.close()
    returned = await scene.worker(name="leaves")
    for key in KEYS:
        await scene.publish(key, "2")
    await until(
        lambda: len(stays.received) + len(returned.received) == len(KEYS) + len(stays.keys())
    )

    assert returned.keys() == leaves.keys()


class _Witness:
    """Sees all deliveries: nobody may get a key that another one has unacknowledged."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[Worker, int]] = {}
        self.last: dict[str, Position] = {}
        self.overlaps: list[str] = []
        self.inversions: list[Position] = []
        self.done: set[Position] = set()

    def sees(self, worker: Worker, message: Received) -> None:
        holder, count = self.held.get(message.key, (worker, 0))
        if holder is not worker and count:
            self.overlaps.append(message.key)
        self.held[message.key] = (worker, count + 1)

    def finishes(self, message: Received) -> None:
        worker, count = self.held[message.key]
        self.held[message.key] = (worker, count - 1)
        if message.position < self.last.get(message.key, message.position):
            self.inversions.append(message.position)
        self.last[message.key] = message.position
        self.done.add(message.position)

    def forgets(self, worker: Worker) -> None:
        self.held = {key: held for key, held in self.held.items() if held[0] is not worker}

    def takes(self, worker: Worker, batch: Sequence[Received]) -> None:
        """Acknowledge everything, a moment after it came."""
        for message in batch:
            self.sees(worker, message)
        asyncio.get_running_loop().call_later(0.02, self.acknowledges, worker, batch)

    def acknowledges(self, worker: Worker, batch: Sequence[Received]) -> None:
        if worker.consumer.is_connected():
            for message in batch:
                self.finishes(message)
            worker.consumer.acknowledge(batch)


@pytest.mark.timeout(60, func_only=True)
async def test_no_key_is_ever_at_two_workers_while_they_join_and_leave(scene: Scene) -> None:
    witness = _Witness()
    workers = [await scene.worker(react=witness.takes)]
    published: set[Position] = set()

    for step in range(12):
        for key in KEYS:
            published.update(await scene.publish(key, f"{step}"))
        if step % 3 == 2:
            leaving = workers.pop(0)
            # Others may be sent what it had before the call returns.
            witness.forgets(leaving)
            await leaving.consumer.close()
        else:
            workers.append(await scene.worker(react=witness.takes))

    await until(lambda: witness.done == published, saying=lambda: len(witness.done))
    assert witness.overlaps == []
    assert witness.inversions == []
    assert all(worker.keys() for worker in workers)
