"""The shell around the lanes: broker -> lanes -> destination, and back.

One event loop runs everything; only the broker's client has threads of its own. A step is: let the
time pass, start what may start, tell the broker what the lanes say, and set one timer for the next.

Shutdown order: stop receiving and starting; let attempts in flight finish; tell the broker what
they came to; leave the subscription, which gives everything else back in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from dispatch.admission import Admission
from dispatch.answers import Answers
from dispatch.attempts import Attempts, Shell
from dispatch.connections import Connections, Subscription
from dispatch.control import Control
from dispatch.deadletter import AttemptHistory, DeadLetters
from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.handover import Handover
from dispatch.immediate import IMMEDIATE_BATCH
from dispatch.lane import Lane
from dispatch.lanereport import lanes_of, status_of
from dispatch.lanes import Lanes
from dispatch.leave import Leave
from dispatch.metrics import WorkerMetrics
from dispatch.orders import Orders, can_be_decided, condemn
from dispatch.pace import Pace, PaceOptions
from dispatch.retry import Reason, RetryPolicy
from dispatch.target import Target
from keylane.broker import Broker, Received

log = structlog.get_logger()

#: How often the connections are looked at when nothing else happens. Pulsar's client waits 90 ms or
#: more before it connects again, so no loss goes unseen.
CONNECTION_CHECK_S: Final = 0.02
#: How long no lane must be full before that is told.
DRAINED_AFTER_S: Final = 5.0
#: Users that a log line names at most.
USERS_TOLD: Final = 10
#: Messages fetched ahead a partition for a destination that is waited for, at least.
LEAST_PREFETCH: Final = 100
#: And for one that answers at once: what waits here is gone in a tenth of a second. The broker
#: sends in halves of it; with 1,000 a worker got a tenth less.
IMMEDIATE_PREFETCH: Final = 2_000


class Worker:
    """One worker of one destination, on all partitions of the topic."""

    def __init__(
        self,
        subscription: Subscription,
        broker: Broker,
        destination: Destination | ImmediateDestination,
        lanes: Lanes,
        policy: RetryPolicy,
        *,
        timeout_s: float,
        drain_timeout_s: float,
        pace: PaceOptions | None = None,
    ) -> None:
        self._subscription = subscription
        self._broker = broker
        target = Target(destination, policy, timeout_s)
        self._prefetch = IMMEDIATE_PREFETCH
        if target.immediate is None:
            # What waits here is kept from a worker that joins: no more than keeps the slots busy.
            self._prefetch = max(LEAST_PREFETCH, 2 * lanes.options.concurrency)
        self._lanes = lanes
        self._drain_timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self._admission = Admission(lanes)
        self.metrics = WorkerMetrics(
            subscription.name,
            lambda: lanes.statistics(self._loop.time()),
            lambda: self._pace.figures(self._loop.time()),
            self._admission.counts,
        )
        self._counts = self.metrics.counts
        self._log = log.bind(destination=subscription.name, worker=subscription.consumer_name)
        self._pace = Pace(self._fitting(pace or PaceOptions(lanes.options.concurrency), target))
        self._orders = Orders(lanes, self._log)
        self._control = Control(
            broker,
            subscription,
            self._pace,
            self._admission,
            self._orders,
            self._log,
            self._step_soon,
            must_hear=lanes.options.holding.is_on,
        )
        self._leave = Leave(lanes, self._control.catch_up, self._log, self._step_soon)
        self._answers = Answers(
            subscription,
            self._control,
            self._log,
            status=lambda: status_of(lanes, self._pace, self._loop.time()),
            lanes=lambda top, user: lanes_of(lanes, self._loop.time(), top=top, user=user),
        )
        self._attempts = Attempts(
            lanes,
            target,
            self._pace,
            self._admission,
            DeadLetters(broker, subscription.topic, subscription.name, timeout_s),
            self.metrics,
            self._log,
            Shell(
                self._spawn,
                self._step_soon,
                self._control.disable,
                self._hold,
                self._control.end_redrive,
            ),
        )
        self._handover = Handover(lanes, self._log)
        self._connections = Connections(
            subscription, broker, lanes, self._counts, self._log, self._step_soon
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        #: Whether anything is received, and how often it changed what.
        self._gate = (True, 0)
        self._is_step_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._full_at: float | None = None
        self._failed: asyncio.Future[None] = self._loop.create_future()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set, then drain.

        Raises `BrokerUnavailable` at the start only; and whatever breaks the worker itself, whose
        events then go back to the broker rather than wait for a step that never comes.
        """
        tasks: list[asyncio.Future[Any]] = [self._failed]
        try:
            await self._handover.open(self._broker, self._subscription)
            await self._control.open()
            await self._answers.open(self._broker)
            await self._connections.open(self._deliver, self._prefetch)
            self._log.info("worker.started", partitions=len(self._connections.consumers))
            look = self._connections.look_for_partitions(self._deliver, self._prefetch)
            tasks += [
                asyncio.ensure_future(look),
                asyncio.ensure_future(stop.wait()),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
        finally:
            for task in tasks:
                task.cancel()
            await self._drain()

    def reconfigure(
        self,
        destination: Destination | ImmediateDestination,
        policy: RetryPolicy,
        pace: PaceOptions,
        timeout_s: float,
    ) -> None:
        """Attempts that start from now on go by these; no lane is dropped.

        The old destination is closed when the last attempt at it has ended.
        """
        target = Target(destination, policy, timeout_s)
        self._attempts.replace(target)
        self._pace.reconfigure(self._fitting(pace, target))
        self._step_soon()

    @staticmethod
    def _fitting(pace: PaceOptions, target: Target) -> PaceOptions:
        return pace if target.immediate is None else replace(pace, concurrency=IMMEDIATE_BATCH)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def unready_reasons(self) -> list[str]:
        """Why this worker does not deliver now, in words; empty when it does."""
        reasons = ["draining"] if self._is_draining else []
        reasons += self._connections.unready_reasons()
        if self._pace.is_paused:
            reasons.append("paused")
        if self._pace.suspended_because is not None:
            reasons.append(f"the destination is disabled: {self._pace.suspended_because}")
        if self._lanes.full():
            reasons.append("a user has max_lane_events unfinished events; receiving has stopped")
        return reasons

    async def _hold(self, delivery: Delivery, history: AttemptHistory) -> None:
        if self._lanes.options.holding.holds(history.given_up_because):
            await self._control.hold(delivery, history)

    def _deliver(self, partition: int, messages: Sequence[Received]) -> None:
        """Take a batch from the broker."""
        # First, because what a new connection brings must not meet what an old one left.
        self._connections.check()
        now = self._loop.time()
        self._counts.received += len(messages)
        if not (self._is_draining or self._orders.is_any_open):
            try:
                messages = self._attempts.pass_by(partition, messages, now)
            except Exception as error:  # noqa: BLE001  what of the batch is where, nobody knows
                self._fail(error)
                return
        arrive = self._lanes.arrive
        for message in messages:
            try:
                arrive(partition, message, now)
            # One bad message must not take the rest of its batch with it: nobody would send
            # those again until the next reconnect.
            except Exception:  # noqa: BLE001
                self._log.exception("arrival.failed", position=message.position)
        self._step()

    # A step

    def _step_soon(self) -> None:
        if not self._is_step_due:
            self._is_step_due = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._is_step_due = False
        try:
            self._take_step()
        except Exception as error:  # noqa: BLE001  a worker that lost its step must not live on
            self._fail(error)

    def _take_step(self) -> None:
        now = self._loop.time()
        self._connections.check()
        self._lanes.advance(now)
        self._connections.ask()
        self._orders.carry_out(now, self._control.carried_out)
        self._attempts.end_overdue(now)
        if not self._is_draining:
            self._attempts.start(now)
        self._obey()
        self._set_gate(now)
        self._set_timer()

    def _obey(self) -> None:
        """Do what the lanes say."""
        commands = self._lanes.take_commands()
        consumers = self._connections.consumers
        for partition, messages in commands.acknowledge.items():
            self._counts.acknowledged += len(messages)
            consumers[partition].acknowledge(messages)
        for partition, positions in commands.negative_acknowledge.items():
            self._counts.redeliveries_asked += len(positions)
            consumers[partition].negative_acknowledge(positions)
        for entry in commands.dead_letter:
            self._spawn(self._attempts.bury(entry))
        if commands.notes:
            self._handover.say(commands.notes)
        if commands.ask:
            self._leave.ask(commands.ask)

    def _set_gate(self, now: float) -> None:
        is_open = self._lanes.may_receive(now) and not self._is_draining
        self._tell_of_full_lanes(now)
        gate = is_open, self._lanes.partitions.changes
        if gate == self._gate:
            return
        self._gate = gate
        if is_open:
            self._connections.resume()
        else:
            self._connections.pause()

    def _tell_of_full_lanes(self, now: float) -> None:
        # A full lane has room with each event that leaves it, and is full again with the next.
        if lanes := self._lanes.full():
            if self._lanes.options.holding.full_lane:
                self._hold_users_of(lanes)
            if self._full_at is None:
                self._log.error(
                    "lane.full",
                    users=[str(lane.key) for lane in lanes[:USERS_TOLD]],
                    max_lane_events=self._lanes.options.max_lane_events,
                    consequence="nothing is received for anybody; what is in hand goes on",
                )
            self._full_at = now
        elif self._full_at is not None and now - self._full_at > DRAINED_AFTER_S:
            self._full_at = None
            self._log.info("lane.drained", consequence="receiving goes on")

    def _hold_users_of(self, full: Sequence[Lane]) -> None:
        for lane in full:
            # A user that is held already drains by itself.
            if lane.key not in self._admission.users and can_be_decided(lane):
                condemn(self._lanes, lane.head, Reason.LANE_FULL)

    def _set_timer(self) -> None:
        now = self._loop.time()
        at = min(self._lanes.wake_at(now), self._pace.wake_at(now), now + CONNECTION_CHECK_S)
        at = max(at, now)
        if self._timer:
            # A timer that rings a little early costs less than one that is set anew each step.
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        # uvloop rings up to half a millisecond early: only the timer itself knows that it is gone.
        self._timer = None
        self._step()

    # What takes time

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._let_go)
        return task

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    # The end

    async def _drain(self) -> None:
        self._is_draining = True
        self._connections.pause()
        self._log.info("worker.draining", in_flight=len(self._tasks))
        deadline = self._loop.time() + self._drain_timeout_s
        while self._tasks and self._loop.time() < deadline:
            # What finishes may start a dead letter's publish: wait for that too.
            await asyncio.wait(
                self._tasks,
                timeout=deadline - self._loop.time(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            self._obey()
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        self._lanes.hand_over()
        self._obey()
        if self._timer:
            self._timer.cancel()
        await self._connections.close()
        await self._attempts.close()
        await self._leave.close()
        await self._answers.close()
        await self._control.close()
        statistics = self._lanes.statistics(self._loop.time())._asdict()
        self._log.info("worker.stopped", **statistics)
