"""What a kind of destination has to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dispatch.delivery import Delivery
from dispatch.outcome import Outcome


class Destination(Protocol):
    """Takes one event at a time for each user, many users' at once.

    `attempt` answers with an outcome whatever the other side does; it raises `ContractError` for an
    event that this kind can't express, and nothing else but its own bugs. It ends by itself within
    the configured timeout, and leaves nothing running behind when it is cancelled.
    """

    async def attempt(self, delivery: Delivery) -> Outcome: ...

    async def close(self) -> None:
        """Called once, after the last attempt."""
        ...


@runtime_checkable
class ImmediateDestination(Protocol):
    """A destination that never waits for anybody else: the attempts of a moment go together.

    Events of `deliveries` are of different users; outcomes come in the same order.
    """

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]: ...

    async def close(self) -> None: ...
