"""Processes on one store, at random: senders who repeat, late receipts, crashes, outages, time.

What must hold: nothing is answered 202 without every event of it confirmed; an event is sent a
second time only if its receipt said no, or its confirmation was lost with a process or with a
reservation; and in the end every request can be brought to its 202.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from typing_extensions import override

from ingest.idempotency.memory import MemoryStore
from ingest.idempotency.records import STORED, id_name, key_names, read_record
from ingest.refusals import NotConfirmed, StillRunning, StoreUnavailable
from keylane.broker import OutgoingMessage, Receipt
from keylane.errors import BrokerUnavailable, KeylaneError, PublishUnconfirmed
from tests.fakes import FakePublisher, position
from tests.unit.idempotency_desk import Desk, answered

RESERVATION_S = 30.0
DEADLINE_S = 5.0

#: Key and events of each request that there is; ids are shared between some of them.
REQUESTS: list[tuple[str | None, tuple[str, ...]]] = [
    ("k", ("ann", "bob", "ann")),
    ("l", ("ann:1", "bob", "eve:2")),
    ("m", ("ann:2", "ann:3")),
    (None, ("ann:1", "ann:3", "bob:4")),
    (None, ("eve:2",)),
]


@dataclass(eq=False)
class Sent:
    """One message that went to the broker, and what became of it."""

    #: Which event it is: its given id, or its key and index.
    event: str
    id: str
    request: int
    index: int
    desk: Worker
    receipt: Receipt | None = None
    #: Why it may be sent again although no receipt said so.
    is_lost: bool = False


@dataclass
class Broker:
    sent: list[Sent] = field(default_factory=list)


class Publisher(FakePublisher):
    """Holds every receipt until the machine gives it."""

    def __init__(self, broker: Broker) -> None:
        super().__init__()
        self.waiting: list[tuple[Sent, Callable[[Receipt], None]]] = []
        self.desk: Worker | None = None
        self._broker = broker

    @override
    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        assert self.desk is not None
        number, event, index = message.value.decode().split(" ")
        one = Sent(event, message.properties["ce_id"], int(number), int(index), self.desk)
        for before in self._broker.sent:
            if before.event == one.event:
                is_refused = isinstance(before.receipt, KeylaneError)
                assert is_refused or before.is_lost, f"{one.event} was sent twice"
                never_left = isinstance(before.receipt, BrokerUnavailable)
                assert before.id == one.id or never_left, f"{one.event} changed its id"
        self._broker.sent.append(one)
        self.waiting.append((one, done))


class Worker(Desk):
    def __init__(self, store: MemoryStore, broker: Broker) -> None:
        self.mail = Publisher(broker)
        super().__init__(
            store, publisher=self.mail, reservation_s=RESERVATION_S, deadline_s=DEADLINE_S
        )
        self.mail.desk = self
        self.tasks: list[asyncio.Task[None]] = []


class Clocked(asyncio.SelectorEventLoop):
    """A loop whose time passes only when it is told to."""

    now = 1_000.0

    @override
    def time(self) -> float:
        return self.now


class Processes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = Clocked()
        self.broker = Broker()
        self.store = MemoryStore(
            window_s=1e9, reservation_s=RESERVATION_S, clock=lambda: self.loop.now
        )
        self.is_up = True
        self.workers: list[Worker] = []

    @initialize()
    def start(self) -> None:
        self.workers = [Worker(self.store, self.broker) for _ in range(2)]

    def run(self) -> None:
        """Let everything happen that can happen now."""

        async def turns() -> None:
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        for worker in self.workers:
            for task in [task for task in worker.tasks if task.done()]:
                worker.tasks.remove(task)
                if not task.cancelled():
                    task.result()

    async def post(self, worker: Worker, number: int) -> None:
        key, events = REQUESTS[number]
        try:
            acceptance = await worker.post(*events, key=key, number=number)
        except (StillRunning, StoreUnavailable):
            return
        except NotConfirmed as error:
            stored = [told.id for told in error.events if told.status == "confirmed"]
        except BrokerUnavailable:
            return
        else:
            stored = [event["id"] for event in answered(acceptance)]
            assert len(stored) == len(events)
        for event_id in stored:
            assert self.is_confirmed(event_id), "said to be stored, but not confirmed"

    def is_confirmed(self, event_id: str) -> bool:
        return any(
            one.id == event_id and isinstance(one.receipt, tuple) for one in self.broker.sent
        )

    @rule(worker=st.integers(0, 1), number=st.integers(0, len(REQUESTS) - 1))
    def request(self, worker: int, number: int) -> None:
        desk = self.workers[worker]
        desk.tasks.append(self.loop.create_task(self.post(desk, number)))
        self.run()

    @rule(worker=st.integers(0, 1), number=st.integers(0, len(REQUESTS) - 1))
    def two_at_once(self, worker: int, number: int) -> None:
        for desk in (self.workers[worker], *self.workers):
            desk.tasks.append(self.loop.create_task(self.post(desk, number)))
        self.run()

    @rule(
        worker=st.integers(0, 1),
        number=st.integers(0, len(REQUESTS) - 1),
        seconds=st.sampled_from([5, 40]),
    )
    def a_sender_repeats_elsewhere(self, worker: int, number: int, seconds: int) -> None:
        self.request(worker, number)
        self.time_passes(seconds)
        self.request(1 - worker, number)

    @rule(data=st.data(), worker=st.integers(0, 1))
    def receipt(self, data: st.DataObject, worker: int) -> None:
        waiting = self.workers[worker].mail.waiting
        if waiting:
            self.give(*waiting.pop(data.draw(st.integers(0, len(waiting) - 1))), data)
            self.run()

    def give(self, one: Sent, done: Callable[[Receipt], None], data: st.DataObject) -> None:
        receipts: list[Receipt] = [
            position(0),
            position(0),
            PublishUnconfirmed(),
            BrokerUnavailable(),
        ]
        one.receipt = data.draw(st.sampled_from(receipts))
        done(one.receipt)

    @rule(worker=st.integers(0, 1))
    def all_receipts(self, worker: int) -> None:
        waiting = self.workers[worker].mail.waiting
        while waiting:
            one, done = waiting.pop(0)
            one.receipt = position(0)
            done(one.receipt)
        self.run()

    @rule(worker=st.integers(0, 1))
    def a_sender_leaves(self, worker: int) -> None:
        if tasks := self.workers[worker].tasks:
            tasks[0].cancel()
            self.run()

    @rule(worker=st.integers(0, 1))
    def crash(self, worker: int) -> None:
        dead = self.workers[worker]
        self.lose(dead)
        dead.crash()
        dead.mail.waiting.clear()
        for task in dead.tasks:
            task.cancel()
        self.run()
        self.workers[worker] = Worker(self.store, self.broker)
        self.workers[worker].line.is_cut = not self.is_up

    def lose(self, worker: Worker) -> None:
        """What a process has not recorded may be sent again by others."""
        for one in self.broker.sent:
            if one.desk is worker and not self.is_recorded(one):
                one.is_lost = True

    def is_recorded(self, one: Sent) -> bool:
        held = {**self.store._records.entries}
        key, events = REQUESTS[one.request]
        if ":" in events[one.index]:
            entry = held.get(id_name("topic", one.id))
            return entry is not None and entry[0] == STORED
        entry = held.get(key_names("topic", key or "").record)
        record = read_record(entry[0]) if entry else None
        return record is not None and bool(record.answer or record.marks[one.index :][:1] > b"\0")

    @rule(seconds=st.sampled_from([5, 10, 40]))
    def time_passes(self, seconds: int) -> None:
        for worker in self.workers:
            if worker.line.is_cut or worker.line.cut_after is not None:
                self.lose(worker)  # its leases may run out
        for _ in range(0, seconds, 5):
            self.loop.now += DEADLINE_S
            self.run()

    @precondition(lambda self: self.is_up)
    @rule()
    def the_store_fails(self) -> None:
        self.switch(is_up=False)

    @precondition(lambda self: not self.is_up)
    @rule()
    def the_store_is_back(self) -> None:
        self.switch(is_up=True)

    @rule(worker=st.integers(0, 1), after=st.integers(0, 3))
    def the_store_is_about_to_fail(self, worker: int, after: int) -> None:
        if self.is_up:
            self.workers[worker].line.cut_after = after

    def switch(self, *, is_up: bool) -> None:
        self.is_up = is_up
        for worker in self.workers:
            worker.line.is_cut = not is_up
            worker.line.cut_after = None
        self.run()

    @override
    def teardown(self) -> None:
        try:
            if self.workers:
                self.bring_to_an_end()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def bring_to_an_end(self) -> None:
        self.switch(is_up=True)
        for index in (0, 1, 0, 1):
            self.all_receipts(index)
        self.time_passes(40)
        self.time_passes(40)
        for number in range(len(REQUESTS)):
            self.is_accepted(number)
        for worker in self.workers:
            assert worker.repeats._courses == {}
            assert worker.repeats._ledger is not None
            assert worker.repeats._ledger._owners == set()

    def is_accepted(self, number: int) -> None:
        key, events = REQUESTS[number]
        task = self.loop.create_task(self.workers[0].post(*events, key=key, number=number))
        self.run()
        self.all_receipts(0)
        acceptance = task.result()
        for event in answered(acceptance):
            assert self.is_confirmed(event["id"])


TestProcesses: Any = pytest.mark.timeout(120)(Processes.TestCase)
TestProcesses.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
