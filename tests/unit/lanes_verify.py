"""What must be true of one worker's lanes between any two steps, computed from the lanes alone."""

from __future__ import annotations

import math
from collections import Counter

from dispatch.lane import Entry, Lane, State
from dispatch.lanes import Lanes
from dispatch.partition import Partition
from dispatch.timers import Due


def verify(lanes: Lanes) -> None:
    """Recompute what is counted along the way, and look for whatever nobody would come back to."""
    tally = lanes._tally
    counts = [0] * len(State)
    load = payload_bytes = away = 0
    full: set[Lane] = set()
    queued = Counter(map(id, [*lanes._turns._ready, *lanes._turns._slow]))
    slow_running = 0
    for partition in lanes.partitions.values():
        queued.update(map(id, partition.withheld))
        for key, lane in partition.lanes.items():
            assert lane.key == key
            assert len(lane) > 0, f"the lane of {key} is empty"
            _verify_order(lane)
            for entry in lane:
                counts[entry.state] += 1
                payload_bytes += entry.payload_bytes
                _verify_entry(lane, entry)
            # One more may have come before the rest. What was given back may come back all at once.
            held = sum(e.state is State.HELD and not e.given_back_in for e in lane)
            assert held <= lanes.options.lane_payload_events + 1, f"{key} has {held} payloads"
            weight = _weight(lane, lanes.options.lane_share)
            assert lane.weight == weight, f"{key} weighs {lane.weight}, not {weight}"
            load += weight
            assert lane.takes_slow_slot <= (lane.head.state is State.IN_FLIGHT)
            slow_running += lane.takes_slow_slot
            away += lane.head.state in (State.AWAITED, State.PAGED)
            if len(lane) >= lanes.options.max_lane_events:
                full.add(lane)
            assert queued[id(lane)] == lane.is_queued, f"the lane of {key} stands twice or nowhere"
        _verify_waiting(lanes, partition)
    assert counts == tally.counts
    assert slow_running == tally.slow_running <= lanes.options.slow_limit
    assert load == tally.load
    assert payload_bytes == tally.payload_bytes
    assert away == tally.away
    assert full == tally.full


def _weight(lane: Lane, lane_share: int) -> int:
    """What can be attempted counts, and of each user no more than a share."""
    if lane.head.state not in (State.HELD, State.IN_FLIGHT):
        return 0
    return 1 if lane.head.attempt > 1 else min(len(lane), lane_share)


def _verify_order(lane: Lane) -> None:
    # A late predecessor stands behind the head that was started before it came.
    last = None
    for index in range(lane.start + 1, len(lane.entries)):
        position = lane.entries[index].position
        assert last is None or position > last, f"the lane of {lane.key} is out of order"
        last = position
    pages = [entry.state is State.PAGED for entry in lane]
    assert lane.paged == sum(pages)
    assert all(pages[len(pages) - lane.paged :]), f"pages of {lane.key} stand before others"


def _verify_entry(lane: Lane, entry: Entry) -> None:
    assert entry.lane is lane
    assert (entry.message is None) == (entry.state in (State.AWAITED, State.PAGED))
    assert entry is lane.head or entry.state < State.IN_FLIGHT
    if entry.message is None:
        assert entry.payload_bytes == 0
    elif entry.payload_bytes:
        assert entry.payload_bytes >= len(entry.message.value())


def _verify_waiting(lanes: Lanes, partition: Partition) -> None:
    """Whatever waits has somebody who will wake it up."""
    timers = lanes._timers._heap
    delays = {(id(t.entry), t.token) for t in timers if t.due is Due.BACKOFF}
    patiences = {(id(t.entry), t.token) for t in timers if t.due is Due.AWAIT}
    settling = {id(lane) for _, lane in (*partition.settling, *partition.meeting)}
    forgetting = {id(t.lane) for t in timers if t.due is Due.FORGET}
    due = _due_heads(partition)
    for lane in partition.lanes.values():
        head = lane.head
        if head.state is State.HELD:
            is_settling = lane.is_settling and id(lane) in settling
            assert lane.is_queued or is_settling or lane.is_asking, f"{lane.key} has no turn"
        elif head.state is State.BACKOFF:
            assert (id(head), head.due) in delays or id(head) in due, f"{lane.key} waits for ever"
        elif head.state is State.AWAITED:
            is_awaited = (id(head), lane.awaited_until) in patiences
            is_left = lane.is_given_back and id(lane) in forgetting
            assert is_awaited or is_left, f"{lane.key} is awaited for ever"
        elif head.state is State.PAGED:
            assert lane.is_fetching or _is_due_tail(partition, lane, head), f"{lane.key} is unread"
        assert not lane.is_fetching or lane in partition.due_pages
        _verify_given_back(partition, lane)


def _due_heads(partition: Partition) -> set[int]:
    """What waits to be given back is alive, and waits once."""
    for entry in partition.due_heads:
        assert entry.state is State.BACKOFF
        assert entry.lane is not None
        assert partition.lanes.get(entry.lane.key) is entry.lane
        assert entry.lane.head is entry
    due = {id(entry) for entry in partition.due_heads}
    assert len(due) == len(partition.due_heads)
    return due


def _verify_given_back(partition: Partition, lane: Lane) -> None:
    """Of a lane whose head went elsewhere nothing may stay here that its new owner waits for."""
    if not lane.is_given_back:
        return
    is_back = False
    for entry in list(lane)[1:]:
        if entry.is_here and entry.given_back_in != lane.episode:
            assert _is_due_tail(partition, lane, entry), f"{lane.key} keeps {entry.position}"
        is_back = is_back or (entry.is_here and entry.given_back_in == lane.episode)
    if is_back and lane.head.state is State.AWAITED:
        assert lane.awaited_until < math.inf, f"{lane.key} is back, and waits for ever"


def _is_due_tail(partition: Partition, lane: Lane, entry: Entry) -> bool:
    return any(tail is lane and start <= entry.position for tail, start in partition.due_tails)


def verify_nothing_is_left(lanes: Lanes) -> None:
    """After a long silence a worker holds nothing and waits for nothing."""
    for partition in lanes.partitions.values():
        assert not partition.lanes, f"left: {list(partition.lanes)}"
        assert not partition.withheld
        for queue in (partition.due_heads, partition.due_pages, partition.due_tails):
            assert not queue
        for lately in (
            partition.finished,
            partition.served,
            partition.known,
            partition.moving,
            partition.notes,
        ):
            assert not lately._current
            assert not lately._previous
    assert lanes._timers.next_at() == math.inf
    assert not lanes._turns
    assert lanes._tally.counts == [0] * len(State)
