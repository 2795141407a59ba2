"""The attempts of one worker: started, their outcomes judged, and what was given up buried.

What an outcome means for the event is the policy's to say (dispatch/retry.py), for the destination
as a whole the pace's (dispatch/pace.py), and the lanes are told (dispatch/lanes.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from dispatch.admission import Admission, Verdict
from dispatch.breaker import BreakerState
from dispatch.deadletter import AttemptHistory, DeadLetters, remember
from dispatch.delivery import Delivery, delivery_of
from dispatch.destinations.destination import Destination
from dispatch.immediate import IMMEDIATE_ROUNDS, Immediate, broken
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.metrics import OUTCOME_NAMES, WorkerMetrics
from dispatch.orders import condemn
from dispatch.outcome import (
    Delivered,
    Disabled,
    Failure,
    Malformed,
    Outcome,
    Unavailable,
    Withdrawn,
)
from dispatch.pace import Cost, Pace
from dispatch.retry import Acknowledge, Decision, GiveUp, Reason, Retry
from dispatch.suspects import Suspects
from dispatch.target import Target
from keylane.broker import Received
from keylane.errors import BrokerError, ContractError
from keylane.redriven import END

#: A destination ends an attempt by itself; this is for one that does not.
TIMEOUT_MARGIN_S: Final = 5.0
#: Seconds after which a redrive's end is said again that the broker did not confirm.
END_AGAIN_S: Final = 1.0
_LATE: Final = Unavailable("no answer within the timeout", may_be_down=True, is_overload=True)


@dataclass(frozen=True, slots=True)
class Shell:
    """What a worker does for its attempts: run what takes time, step, and say things to all.

    `disable` is told why. `hold` returns when nobody attempts what comes behind the event, or at
    once if nobody has to be told. `end_redrive` is told the user and the redrive's token. The last
    two raise `BrokerError`.
    """

    spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
    step_soon: Callable[[], None]
    disable: Callable[[str], None]
    hold: Callable[[Delivery, AttemptHistory], Awaitable[None]]
    end_redrive: Callable[[str, str], Awaitable[None]]


class Attempts:
    """Started by the worker's steps, as many as the pace has room for."""

    def __init__(
        self,
        lanes: Lanes,
        target: Target,
        pace: Pace,
        admission: Admission,
        dead_letters: DeadLetters,
        metrics: WorkerMetrics,
        log: Any,
        shell: Shell,
    ) -> None:
        self._lanes = lanes
        self._target = target
        self._pace = pace
        self._admission = admission
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._counts = metrics.counts
        self._log = log
        self._logs_deliveries = log.is_enabled_for(logging.DEBUG)
        self._shell = shell
        self._is_once_more = lanes.partitions.is_anything_once_more
        self._loop = asyncio.get_running_loop()
        self._suspects = Suspects(lanes)
        self._immediate = Immediate(lanes, pace, admission, metrics.counts, log, self._settle)
        #: Until when each may take, the oldest first; and those that took longer.
        self._running: dict[Entry, tuple[asyncio.Task[None], float]] = {}
        self._overdue: set[Entry] = set()

    def replace(self, target: Target) -> None:
        """Attempts go there from now on; the old one is closed when its last has ended."""
        old, self._target = self._target, target
        if not old.running:
            self._shell.spawn(old.destination.close())

    async def close(self) -> None:
        await self._target.destination.close()

    def start(self, now: float) -> None:
        """Start what there is room for."""
        if self._target.immediate is None:
            until = now + self._target.timeout_s + TIMEOUT_MARGIN_S
            for entry in self._take(now, self._lanes.in_flight):
                task = self._shell.spawn(self._attempt(entry, self._target))
                self._running[entry] = task, until
            return
        for _ in range(IMMEDIATE_ROUNDS):
            entries = self._take(now, 0)
            if not entries:
                return
            self._immediate.attempt(self._target.immediate, entries, now)
        self._shell.step_soon()

    def pass_by(self, number: int, messages: Sequence[Received], now: float) -> Sequence[Received]:
        """Attempt what needs no lane; returns the rest, in its order."""
        destination = self._target.immediate
        if destination is None:
            return messages
        return self._immediate.pass_by(destination, number, messages, now)

    def _take(self, now: float, in_flight: int) -> list[Entry]:
        room = self._pace.room(now, in_flight)
        entries = self._lanes.start_attempts(now, room) if room else []
        if entries and (self._admission.is_anything_said() or self._is_once_more()):
            entries = self._admitted(entries)
        if entries:
            self._pace.started(entries)
        return entries

    def _admitted(self, entries: list[Entry]) -> list[Entry]:
        """Those to be attempted; what becomes of the others is seen to."""
        admitted = []
        for entry in entries:
            match self._admission.verdict(entry):
                case Verdict.ATTEMPT:
                    admitted.append(entry)
                case Verdict.WAIT:
                    self._admission.put_off(entry)
                case Verdict.DEAD_LETTER:
                    condemn(self._lanes, entry, self._reason_for(entry))
                case Verdict.END:
                    self._shell.spawn(self._end_redrive(entry))
        if len(admitted) < len(entries):
            # Their slots are free.
            self._shell.step_soon()
        return admitted

    def _reason_for(self, entry: Entry) -> str:
        """Of a held user's event; the one because of which it is held has its own."""
        delivery = delivery_of(entry)
        record = self._admission.users.get(delivery.message.key)
        if record is None or record.position != delivery.position or delivery.is_once_more:
            return Reason.HELD
        # Its worker ended before it was in the dead letters.
        history = AttemptHistory(last_status=record.status, last_error=record.error)
        entry.context = history
        return record.reason or Reason.HELD

    async def _end_redrive(self, entry: Entry) -> None:
        delivery = delivery_of(entry)
        token = delivery.message.properties()[END]
        try:
            await self._shell.end_redrive(delivery.message.key, token)
        except BrokerError as error:
            self._log.error("redrive.unended", user=delivery.message.key, error=str(error))
            self._lanes.back_off(entry, END_AGAIN_S, self._loop.time())
        else:
            self._lanes.acknowledge(entry, self._loop.time())
        self._shell.step_soon()

    def end_overdue(self, now: float) -> None:
        """Cancel attempts that their destination does not end by itself, as it should.

        `asyncio.timeout` around each costs a tenth of an attempt.
        """
        for entry, (task, until) in self._running.items():
            if now < until:
                return
            if entry not in self._overdue:
                self._overdue.add(entry)
                task.cancel()

    async def _attempt(self, entry: Entry, target: Target) -> None:
        # The process may have been stopped since the step, and the loop's own time be old.
        def may_begin() -> bool:
            return not self._lanes.is_doubtful(entry, time.monotonic())

        if not may_begin():
            del self._running[entry]
            self._withdraw(entry)
            return
        delivery = delivery_of(entry, may_begin)
        began = self._loop.time()
        target.running += 1
        try:
            outcome = await self._outcome_of(entry, delivery, target)
        finally:
            target.running -= 1
            del self._running[entry]
            self._overdue.discard(entry)
        self._metrics.attempt_seconds.observe(self._loop.time() - began)
        self._settle(entry, delivery, outcome, began)
        if target is not self._target and not target.running:
            self._shell.spawn(target.destination.close())
        self._shell.step_soon()

    def _withdraw(self, entry: Entry) -> None:
        self._pace.withdrawn(entry)
        self._lanes.withdraw(entry, self._loop.time())

    async def _outcome_of(self, entry: Entry, delivery: Delivery, target: Target) -> Outcome:
        destination = cast(Destination, target.destination)
        try:
            return await destination.attempt(delivery)
        except ContractError as error:
            return Malformed(str(error))
        except asyncio.CancelledError:
            if entry not in self._overdue:
                raise
            self._running[entry][0].uncancel()
            return _LATE
        except TimeoutError:
            return _LATE
        except Exception as error:  # noqa: BLE001  as `broken` says
            return broken(error, self._log)

    def _settle(self, entry: Entry, delivery: Delivery, outcome: Outcome, began: float) -> None:
        """Let the policy decide, and the lanes do it."""
        if isinstance(outcome, Withdrawn):
            self._log.info("attempt.withdrawn", **delivery.facts())
            self._withdraw(entry)
            return
        now = self._loop.time()
        self._counts.attempts[OUTCOME_NAMES[type(outcome)]] += 1
        was_open = self._pace.breaker.is_open
        cost = self._pace.ended(entry, delivery.message.key, outcome, began, now)
        if was_open is not self._pace.breaker.is_open:
            self._tell_of_breaker(now)
        if isinstance(outcome, Delivered):
            self._suspects.judge(self._pace.breaker, is_delivered=True)
            self._lanes.acknowledge(entry, now)
            if self._logs_deliveries:
                self._log.debug("delivery.succeeded", **delivery.facts())
            return
        if isinstance(outcome, Disabled):
            self._shell.disable(outcome.reason)
        self._settle_failure(entry, delivery, outcome, now, cost)
        breaker = self._pace.breaker
        self._counts.attempts_spared += self._suspects.judge(breaker, is_delivered=False)

    def _settle_failure(
        self, entry: Entry, delivery: Delivery, outcome: Failure, now: float, cost: Cost
    ) -> None:
        history = entry.context = remember(entry.context, outcome)
        age_s = (history.last_at_ms - delivery.accepted_at_ms) / 1000
        facts = delivery.facts() | {"status": outcome.status, "reason": outcome.reason}
        match self._decide(entry, outcome, age_s, cost):
            case None:
                self._counts.attempts_spared += 1
                self._lanes.withdraw(entry, now)
                self._log.info("attempt.spared", **facts)
            case Acknowledge():
                self._lanes.acknowledge(entry, now)
            case Retry(delay_s=delay_s):
                self._lanes.back_off(entry, delay_s, now)
                self._log.info("attempt.failed", **facts, retry_in_s=round(delay_s, 3))
            case GiveUp(reason=because):
                history.given_up_because = because
                self._lanes.give_up(entry)
                self._log.warning("event.given_up", **facts, because=because)

    def _decide(self, entry: Entry, outcome: Failure, age_s: float, cost: Cost) -> Decision | None:
        policy = self._target.policy
        if cost is Cost.NOTHING:
            return policy.spare(age_s)
        if cost is Cost.PERHAPS:
            self._suspects.add(entry)
            if self._pace.breaker.is_suspicious:
                return policy.put_off(outcome, entry.attempt, age_s)
        return policy.decide(outcome, entry.attempt, age_s)

    def _tell_of_breaker(self, now: float) -> None:
        breaker = self._pace.breaker
        if breaker.state(now) is BreakerState.CLOSED:
            self._log.info("destination.back", consequence="attempts go on")
            return
        probe_in_s = breaker.wake_at() - now
        self._log.error(
            "destination.down",
            consequence="no attempts but probes, none is counted; events wait in order",
            probe_in_s=None if math.isinf(probe_in_s) else round(probe_in_s, 3),
        )

    async def bury(self, entry: Entry) -> None:
        """Publish it to the dead-letter topic, then let its lane go on."""
        delivery = delivery_of(entry)
        history = cast(AttemptHistory, entry.context)
        reason = history.given_up_because
        try:
            await self._shell.hold(delivery, history)
            await self._dead_letters.publish(delivery, history)
        except BrokerError as error:
            history.unconfirmed += 1
            self._counts.dead_letters_unconfirmed += 1
            delay_s = self._target.policy.backoff.delay_s(history.unconfirmed, lambda _, high: high)
            self._lanes.keep_condemned(entry, delay_s, self._loop.time())
            facts = delivery.facts() | {"error": str(error), "retry_in_s": round(delay_s, 3)}
            self._log.error("dead_letter.unconfirmed", **facts)
        else:
            self._counts.dead_letters[reason] += 1
            self._lanes.acknowledge(entry, self._loop.time())
            self._log.warning("event.dead_lettered", **delivery.facts(), because=reason)
        self._shell.step_soon()
