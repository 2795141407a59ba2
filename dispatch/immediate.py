"""Attempts at a destination that answers at once, many in one go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from dispatch.admission import Admission
from dispatch.delivery import Delivery, delivery_of
from dispatch.destinations.destination import ImmediateDestination
from dispatch.lane import Entry
from dispatch.lanes import Lanes
from dispatch.metrics import OUTCOME_NAMES, Counts
from dispatch.outcome import Delivered, Outcome, Unavailable
from dispatch.pace import Pace
from keylane.broker import Received

#: Attempts in one go, and how often that is done before others get a turn.
IMMEDIATE_BATCH: Final = 500
IMMEDIATE_ROUNDS: Final = 4


class Immediate:
    """`settle` is told what became of an entry that was attempted, but for most that went well."""

    def __init__(
        self,
        lanes: Lanes,
        pace: Pace,
        admission: Admission,
        counts: Counts,
        log: Any,
        settle: Callable[[Entry, Delivery, Outcome, float], None],
    ) -> None:
        self._lanes = lanes
        self._passing = lanes.passing
        self._pace = pace
        self._admission = admission
        self._counts = counts
        self._log = log
        self._logs_deliveries = log.is_enabled_for(logging.DEBUG)
        self._settle = settle

    def attempt(self, destination: ImmediateDestination, entries: list[Entry], now: float) -> None:
        """Attempt what has its turn."""
        deliveries = [delivery_of(entry) for entry in entries]
        outcomes = self._outcomes_of(destination, deliveries)
        delivered = 0
        is_plain = not (self._logs_deliveries or self._pace.breaker.is_open)
        for entry, delivery, outcome in zip(entries, deliveries, outcomes, strict=True):
            if is_plain and isinstance(outcome, Delivered):
                delivered += 1
                self._lanes.acknowledge(entry, now)
            else:
                self._settle(entry, delivery, outcome, now)
        self._count_delivered(delivered, now)

    def pass_by(
        self,
        destination: ImmediateDestination,
        number: int,
        messages: Sequence[Received],
        now: float,
    ) -> Sequence[Received]:
        """Attempt what has just arrived and needs no lane (dispatch/passing.py).

        Returns the rest, in its order.
        """
        for _ in range(IMMEDIATE_ROUNDS):
            if not messages or not self._may_pass(number, now):
                break
            chosen, messages = self._passing.choose(number, messages, IMMEDIATE_BATCH)
            if not chosen:
                break
            self._pace.started(chosen)
            self._attempt_passing(destination, number, chosen, now)
        return messages

    def _may_pass(self, number: int, now: float) -> bool:
        if self._pace.breaker.is_open or self._admission.is_anything_said():
            return False
        has_room = self._pace.room(now, 0) >= IMMEDIATE_BATCH
        return has_room and self._passing.is_open(number, now)

    def _attempt_passing(
        self,
        destination: ImmediateDestination,
        number: int,
        messages: Sequence[Received],
        now: float,
    ) -> None:
        deliveries = [Delivery(message, number, 1) for message in messages]
        outcomes = self._outcomes_of(destination, deliveries)
        delivered: list[Received] = []
        others: list[tuple[Delivery, Outcome]] = []
        for delivery, outcome in zip(deliveries, outcomes, strict=True):
            if isinstance(outcome, Delivered):
                delivered.append(delivery.message)
                if self._logs_deliveries:
                    self._log.debug("delivery.succeeded", **delivery.facts())
            else:
                others.append((delivery, outcome))
        self._passing.finish(number, delivered)
        self._count_delivered(len(delivered), now)
        for delivery, outcome in others:
            entry = self._passing.keep(number, delivery.message, now)
            self._settle(entry, delivery, outcome, now)

    def _outcomes_of(
        self, destination: ImmediateDestination, deliveries: Sequence[Delivery]
    ) -> Sequence[Outcome]:
        try:
            return destination.attempt_all(deliveries)
        except Exception as error:  # noqa: BLE001  as `broken` says
            return [broken(error, self._log)] * len(deliveries)

    def _count_delivered(self, count: int, now: float) -> None:
        self._counts.attempts[OUTCOME_NAMES[Delivered]] += count
        self._pace.delivered(count, now)


def broken(error: Exception, log: Any) -> Outcome:
    """A bug in a destination must not strand the users whose events met it."""
    log.error("attempt.broke", exc_info=error)
    return Unavailable(f"{type(error).__name__}: {error}")
