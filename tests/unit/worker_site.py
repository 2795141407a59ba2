"""A worker on the in-memory broker, with a destination that does what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random

from dispatch.connections import Subscription
from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.lanes import Lanes
from dispatch.options import LaneOptions
from dispatch.outcome import Delivered, Outcome
from dispatch.pace import PaceOptions
from dispatch.retry import Backoff, RetryPolicy
from dispatch.worker import Worker
from keylane.broker import Received
from keylane.event import Event, to_message
from keylane.memory import MemoryBroker
from keylane.memorycluster import MemoryCluster
from tests.waiting import until

DEAD = "events-crm-DLQ"


class Scripted:
    """A destination that does what `answer` says; remembers each attempt as user:id:number."""

    def __init__(self, answer: Callable[[Delivery], Outcome]) -> None:
        self.answer = answer
        self.attempts: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.is_closed = False

    async def attempt(self, delivery: Delivery) -> Outcome:
        self.attempts.append(f"{delivery.event.user}:{delivery.event.id}:{delivery.attempt}")
        await self.hold.wait()
        return self.answer(delivery)

    async def close(self) -> None:
        self.is_closed = True


class Immediate(Scripted):
    """The same, without waiting."""

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        self.attempts += [f"{d.event.user}:{d.event.id}:{d.attempt}" for d in deliveries]
        return [self.answer(delivery) for delivery in deliveries]


class Site:
    """A topic with a destination, and the worker between them."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic("events", 2)
        self.cluster.create_subscription("events", "crm")
        self.cluster.create_topic(DEAD)
        self.broker = MemoryBroker(self.cluster)
        self.stop = asyncio.Event()
        self.worker: Worker
        self.running: asyncio.Task[None]

    async def start(
        self,
        destination: Destination | ImmediateDestination,
        lease_s: float = 20.0,
        *,
        pace: PaceOptions | None = None,
        options: LaneOptions | None = None,
        max_age_s: float = 1000,
        backoff_max_s: float = 0.1,
        is_ready: bool = True,
    ) -> None:
        self.worker = Worker(
            Subscription("events", "crm", "worker-1"),
            self.broker,
            destination,
            Lanes(options or LaneOptions(fresh_s=0, lease_s=lease_s)),
            RetryPolicy(
                max_attempts=2,
                max_age_s=max_age_s,
                backoff=Backoff(min_s=0.05, max_s=backoff_max_s, jitter=0),
                rng=Random(1),
            ),
            timeout_s=1,
            drain_timeout_s=1,
            pace=pace,
        )
        self.running = asyncio.create_task(self.worker.run(self.stop))
        if is_ready:
            await until(lambda: not self.worker.unready_reasons())

    async def publish(self, user: str, *ids: str) -> None:
        publisher = await self.broker.publisher("events")
        now_ms = time.time_ns() // 1_000_000
        for event_id in ids:
            event = Event(id=event_id, user=user, payload=b"{}", accepted_at_ms=now_ms)
            publisher.send(to_message(event), lambda _: None)

    async def everything_is_done(self) -> None:
        await until(lambda: self.cluster.backlog("events", "crm") == 0)

    def dead(self) -> list[Received]:
        return list(self.cluster.messages(DEAD))

    async def end(self) -> None:
        self.stop.set()
        await self.running


def delivered(_: Delivery) -> Outcome:
    return Delivered(200)
