"""`keylane lanes`: of whom most is unfinished, and for how long, over all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dispatch.lanereport import LaneRow, order_of
from keylane.questions import Kind
from operate.overseeing.overseer import Overseer

_NEEDED: Final = frozenset(
    {
        *("user", "partition", "events", "state", "attempt", "id", "position", "place", "head_s"),
        *("next_attempt_in_s", "last_status", "last_error"),
    }
)


@dataclass(frozen=True, slots=True)
class LaneAnswers:
    """Lanes of one destination, each with its worker, and which workers said it or did not."""

    destination: str
    lanes: list[LaneRow]
    answered: list[str]
    unanswered: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "destination": self.destination,
            "lanes": self.lanes,
            "workers": self.answered,
            "unanswered": self.unanswered,
        }


async def lanes_at(
    overseer: Overseer, destination: str, *, top: int, user: str | None = None
) -> LaneAnswers:
    """The `top` lanes whose heads are stuck the longest, of one user or of all.

    Who was attempted before comes first, then who has waited longest, then who has most events.
    Raises `ConfigurationError` if there is no such destination.
    """
    await overseer.require(destination)
    running = await overseer.running(destination)
    expected = {(destination, worker) for worker in running}
    details = {"top": top} | ({} if user is None else {"user": user})
    answers = await overseer.ask(Kind.LANES, destination, expected, **details) if expected else []
    rows = [
        {**row, "worker": str(told["worker"])}
        for told in answers
        for row in told.get("lanes", ())
        # Anybody may speak there.
        if isinstance(row, dict) and row.keys() >= _NEEDED
    ]
    answered = {str(told["worker"]) for told in answers}
    return LaneAnswers(
        destination,
        sorted(rows, key=order_of)[:top],
        sorted(answered),
        sorted(running - answered),
    )
