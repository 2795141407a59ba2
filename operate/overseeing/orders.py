"""`keylane lane skip|dead-letter|retry-now`: what becomes of the event that a user waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dispatch.lanereport import LaneRow
from keylane.controlrecord import About, Key, Order, What, new_token, now
from keylane.errors import BrokerUnavailable
from operate.controlsession import Heard
from operate.overseeing.lanes import LaneAnswers, lanes_at
from operate.overseeing.overseer import Overseer

#: Lanes of one user that are asked for: live, delivered once more, and on their way to another
#: worker.
_LANES: Final = 10
#: Which lane of several is at work: the first of these states. What waits comes last.
_AT_WORK_FIRST: Final = (
    *("in_flight", "backoff", "dead_lettering", "ready", "settling", "awaited", "paged", "waiting"),
)


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order that was said. `heard.confirmed` is empty until it was carried out."""

    destination: str
    order: What
    token: str
    lane: LaneRow
    heard: Heard

    @property
    def is_applied(self) -> bool:
        """Carried out; or void, because the event was done with before it could be."""
        return not self.heard.unconfirmed and bool(self.heard.confirmed)

    def as_dict(self) -> dict[str, Any]:
        return {
            "destination": self.destination,
            "user": self.lane["user"],
            "order": self.order.value,
            "token": self.token,
            "is_applied": self.is_applied,
            "lane": self.lane,
            "confirmed": self.heard.confirmed,
            "unconfirmed": self.heard.unconfirmed,
        }


async def lanes_of_user(overseer: Overseer, destination: str, user: str) -> LaneAnswers:
    """Raises `BrokerUnavailable` if no worker runs, or if none answers."""
    found = await lanes_at(overseer, destination, top=_LANES, user=user)
    if not found.answered and found.unanswered:
        raise BrokerUnavailable(
            f"No worker of {destination} answers ({', '.join(found.unanswered)}); nothing was "
            "ordered. Look at their logs, then try again."
        )
    if not found.answered:
        raise BrokerUnavailable(
            f"{destination} has no worker, and only a worker knows what a user waits for; nothing "
            f"was ordered. Start one with `keylane dispatch {destination}`, then try again."
        )
    return found


def at_work(lanes: list[LaneRow]) -> LaneRow:
    """The lane that holds the others back; of two alike what is delivered once more.

    While a user's earlier events are delivered once more, the live ones wait for them.
    """

    def rank(row: LaneRow) -> tuple[int, int]:
        state = row["state"]
        known = state in _AT_WORK_FIRST
        return _AT_WORK_FIRST.index(state) if known else len(_AT_WORK_FIRST), row["partition"]

    return min(lanes, key=rank)


async def order(overseer: Overseer, destination: str, lane: LaneRow, what: What) -> Ordered:
    """Say it, and wait until it is carried out; it holds for this event and for no other."""
    record = Order(what.value, lane["place"], new_token(), now())
    key = Key(destination, About.ORDER, lane["user"])
    await overseer.control.put(key, record.encoded())
    heard = await overseer.heard(destination, [(key, record.token)])
    return Ordered(destination, what, record.token, lane, heard)
