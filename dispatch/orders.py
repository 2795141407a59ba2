"""What a person ordered for the event at the head of a lane.

It is carried out by the worker that has the event, as soon as it is neither attempted nor away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dispatch.deadletter import AttemptHistory
from dispatch.lane import Entry, Lane, State
from dispatch.lanes import Lanes
from dispatch.retry import Reason
from keylane.broker import Position
from keylane.controlrecord import Order, What
from keylane.names import WHOLE
from keylane.place import read_place
from keylane.redriven import END


class Orders:
    """Orders by user; `carried_out` is told of users whose order is done or can't be any more."""

    def __init__(self, lanes: Lanes, log: Any) -> None:
        self._lanes = lanes
        self._log = log
        self._orders: dict[str, Order] = {}

    @property
    def is_any_open(self) -> bool:
        """Else no event has to be looked at before it is attempted."""
        return bool(self._orders)

    def say(self, user: str, order: Order | None) -> None:
        """What is ordered from now on; raises `ValueError` for an order that can't be read."""
        if order is None:
            self._orders.pop(user, None)
        else:
            What(order.what)
            read_place(order.position)
            self._orders[user] = order

    def carry_out(self, now: float, carried_out: Callable[[str], None]) -> None:
        """Do what can be done now; to be called with every step."""
        for user, order in list(self._orders.items()):
            number, position = read_place(order.position)
            partition = self._lanes.partitions.get(number)
            lane = partition.lanes.get(user) if partition else None
            is_over = partition is not None and position in partition.finished
            if lane is not None and len(lane) and not is_over:
                is_over = lane.head.position > position or self._obey(lane, order, position, now)
            if is_over:
                del self._orders[user]
                carried_out(user)

    def _obey(self, lane: Lane, order: Order, position: Position, now: float) -> bool:
        entry = lane.head
        if entry.position != position or not can_be_decided(lane):
            return False
        if is_end_mark(entry):
            self._log.warning("lane.order_void", user=str(lane.key), because="no event is there")
            return True
        self._log.warning(f"lane.{order.what}", user=str(lane.key), position=order.position)
        match What(order.what):
            case What.SKIP:
                self._lanes.acknowledge(entry, now)
            case What.DEAD_LETTER:
                condemn(self._lanes, entry, Reason.OPERATOR)
            case What.RETRY_NOW:
                self._lanes.hurry(entry, now)
        return True


def can_be_decided(lane: Lane) -> bool:
    """Whether its head is here, and nothing is being done about it."""
    head = lane.head
    is_waiting = head.state is State.HELD or head.state is State.BACKOFF
    return is_waiting and not (head.is_condemned or head.is_stray or lane.is_settling)


def is_end_mark(entry: Entry) -> bool:
    """Whether it is no event, but where a redrive of its user ends."""
    message, lane = entry.message, entry.lane
    if message is None or lane is None or lane.partition != WHOLE or message.value():
        return False
    return END in message.properties()


def condemn(lanes: Lanes, entry: Entry, reason: str) -> None:
    """Give it up without another attempt."""
    known = entry.context
    history = known if isinstance(known, AttemptHistory) else AttemptHistory()
    history.given_up_because = reason
    history.is_untried = True
    entry.context = history
    lanes.give_up(entry)
