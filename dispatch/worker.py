"""The shell around the lanes: broker -> lanes -> destination, and back.

One event loop runs everything; only the broker's client has threads of its own. A step is: let the
time pass, start what may start, tell the broker what the lanes say, and set one timer for the next.

Shutdown order: stop receiving and starting; let attempts in flight finish; tell the broker what
they came to; leave the subscription, which gives everything else back in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast

import structlog

from dispatch.connections import Connections, Subscription
from dispatch.deadletter import AttemptHistory, DeadLetters, remember
from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.handover import Handover
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.metrics import WorkerMetrics
from dispatch.outcome import Delivered, Malformed, Outcome, Refused, Unavailable
from dispatch.retry import Acknowledge, GiveUp, Retry, RetryPolicy
from keylane.broker import DEFAULT_PREFETCH, Broker, Received
from keylane.errors import BrokerError, ContractError

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
#: Attempts at an immediate destination in one go, and rounds of them before others get a turn.
IMMEDIATE_BATCH: Final = 500
IMMEDIATE_ROUNDS: Final = 4
#: A destination ends an attempt by itself; this is for one that does not.
TIMEOUT_MARGIN_S: Final = 5.0


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
    ) -> None:
        self._subscription = subscription
        self._broker = broker
        self._destination = destination
        self._immediate = destination if isinstance(destination, ImmediateDestination) else None
        self._prefetch = DEFAULT_PREFETCH
        if self._immediate is None:
            # What waits here is kept from a worker that joins: no more than keeps the slots busy.
            self._prefetch = max(LEAST_PREFETCH, 2 * lanes.options.concurrency)
        self._lanes = lanes
        self._policy = policy
        self._timeout_s = timeout_s
        self._drain_timeout_s = drain_timeout_s
        self._dead_letters = DeadLetters(broker, subscription.topic, subscription.name, timeout_s)
        self._loop = asyncio.get_running_loop()
        self.metrics = WorkerMetrics(subscription.name, lambda: lanes.statistics(self._loop.time()))
        self._counts = self.metrics.counts
        self._log = log.bind(destination=subscription.name, worker=subscription.consumer_name)
        self._logs_deliveries = self._log.is_enabled_for(logging.DEBUG)
        self._handover = Handover(lanes, self._log)
        self._connections = Connections(
            subscription, broker, lanes, self._counts, self._log, self._step_soon
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._is_receiving = True
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

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def unready_reasons(self) -> list[str]:
        """Why this worker does not deliver now, in words; empty when it does."""
        reasons = ["draining"] if self._is_draining else []
        reasons += self._connections.unready_reasons()
        if self._lanes.full_keys():
            reasons.append("a user has max_lane_events unfinished events; receiving has stopped")
        return reasons

    def _deliver(self, partition: int, messages: Sequence[Received]) -> None:
        """Take a batch from the broker."""
        # First, because what a new connection brings must not meet what an old one left.
        self._connections.check()
        now = self._loop.time()
        self._counts.received += len(messages)
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
        if not self._is_draining:
            self._start_attempts(now)
        self._obey()
        self._set_gate(now)
        self._set_timer()

    def _start_attempts(self, now: float) -> None:
        if self._immediate is None:
            for entry in self._lanes.start_attempts(now):
                self._spawn(self._attempt(entry))
            return
        for _ in range(IMMEDIATE_ROUNDS):
            entries = self._lanes.start_attempts(now, IMMEDIATE_BATCH)
            if not entries:
                return
            self._attempt_all(self._immediate, entries)
        self._step_soon()

    def _attempt_all(self, destination: ImmediateDestination, entries: list[Entry]) -> None:
        deliveries = [_delivery(entry) for entry in entries]
        outcomes: Sequence[Outcome]
        try:
            outcomes = destination.attempt_all(deliveries)
        except Exception as error:  # noqa: BLE001  as `_broken` says
            outcomes = [self._broken(error)] * len(deliveries)
        for entry, delivery, outcome in zip(entries, deliveries, outcomes, strict=True):
            self._settle(entry, delivery, outcome)

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
            self._spawn(self._dead_letter(entry))
        if commands.notes:
            self._handover.say(commands.notes)

    def _set_gate(self, now: float) -> None:
        is_open = self._lanes.may_receive(now) and not self._is_draining
        self._tell_of_full_lanes(now)
        if is_open == self._is_receiving:
            return
        self._is_receiving = is_open
        if is_open:
            self._connections.resume()
        else:
            self._connections.pause()

    def _tell_of_full_lanes(self, now: float) -> None:
        # A full lane has room with each event that leaves it, and is full again with the next.
        if keys := self._lanes.full_keys():
            if self._full_at is None:
                self._log.error(
                    "lane.full",
                    users=[str(key) for key in keys[:USERS_TOLD]],
                    max_lane_events=self._lanes.options.max_lane_events,
                    consequence="nothing is received for anybody; what is in hand goes on",
                )
            self._full_at = now
        elif self._full_at is not None and now - self._full_at > DRAINED_AFTER_S:
            self._full_at = None
            self._log.info("lane.drained", consequence="receiving goes on")

    def _set_timer(self) -> None:
        now = self._loop.time()
        at = min(self._lanes.wake_at(now) or now + CONNECTION_CHECK_S, now + CONNECTION_CHECK_S)
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

    # An attempt

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    async def _attempt(self, entry: Entry) -> None:
        destination = cast(Destination, self._destination)
        # The process may have been stopped since the step, and the loop's own time be old.
        if self._lanes.is_doubtful(entry, time.monotonic()):
            self._lanes.withdraw(entry, self._loop.time())
            return
        delivery = _delivery(entry)
        began = self._loop.time()
        outcome: Outcome
        try:
            async with asyncio.timeout(self._timeout_s + TIMEOUT_MARGIN_S):
                outcome = await destination.attempt(delivery)
        except ContractError as error:
            outcome = Malformed(str(error))
        except TimeoutError:
            outcome = Unavailable("no answer within the timeout")
        except Exception as error:  # noqa: BLE001  as `_broken` says
            outcome = self._broken(error)
        self.metrics.attempt_seconds.observe(self._loop.time() - began)
        self._settle(entry, delivery, outcome)
        self._step_soon()

    def _broken(self, error: Exception) -> Outcome:
        # A bug in a destination must not strand the users whose events met it.
        self._log.error("attempt.broke", exc_info=error)
        return Unavailable(f"{type(error).__name__}: {error}")

    def _settle(self, entry: Entry, delivery: Delivery, outcome: Outcome) -> None:
        """Let the policy decide, and the lanes do it."""
        now = self._loop.time()
        self._counts.attempts[_OUTCOME_NAMES[type(outcome)]] += 1
        if isinstance(outcome, Delivered):
            self._lanes.acknowledge(entry, now)
            if self._logs_deliveries:
                self._log.debug("delivery.succeeded", **delivery.facts())
            return
        history = entry.context = remember(entry.context, outcome)
        age_s = (history.last_at_ms - delivery.accepted_at_ms) / 1000
        facts = delivery.facts() | {"status": outcome.status, "reason": outcome.reason}
        match self._policy.decide(outcome, delivery.attempt, age_s):
            case Acknowledge():
                self._lanes.acknowledge(entry, now)
            case Retry(delay_s=delay_s):
                self._lanes.back_off(entry, delay_s, now)
                self._log.info("attempt.failed", **facts, retry_in_s=round(delay_s, 3))
            case GiveUp(reason=because):
                history.given_up_because = because
                self._lanes.give_up(entry)
                self._log.warning("event.given_up", **facts, because=because)

    async def _dead_letter(self, entry: Entry) -> None:
        delivery = _delivery(entry)
        history = cast(AttemptHistory, entry.context)
        reason = history.given_up_because
        try:
            await self._dead_letters.publish(delivery, history)
        except BrokerError as error:
            history.unconfirmed += 1
            self._counts.dead_letters_unconfirmed += 1
            delay_s = self._policy.backoff.delay_s(history.unconfirmed, lambda _, high: high)
            self._lanes.keep_condemned(entry, delay_s, self._loop.time())
            facts = delivery.facts() | {"error": str(error), "retry_in_s": round(delay_s, 3)}
            self._log.error("dead_letter.unconfirmed", **facts)
        else:
            self._counts.dead_letters[reason] += 1
            self._lanes.acknowledge(entry, self._loop.time())
            self._log.warning("event.dead_lettered", **delivery.facts(), because=reason)
        self._step_soon()

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
        await self._destination.close()
        statistics = self._lanes.statistics(self._loop.time())._asdict()
        self._log.info("worker.stopped", **statistics)


_OUTCOME_NAMES: Final[dict[type[Outcome], str]] = {
    Delivered: "delivered",
    Unavailable: "unavailable",
    Refused: "refused",
    Malformed: "malformed",
}


def _delivery(entry: Entry) -> Delivery:
    if entry.message is None or entry.lane is None:
        raise AssertionError("an entry without its message was started")
    return Delivery(entry.message, entry.lane.partition, entry.attempt)
