"""For trials: lets only a share of the attempts through, and fails the others."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from dispatch.delivery import Delivery
from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.outcome import Outcome, Unavailable

_FAILED: Final = Unavailable("failed on purpose (--reliability)")


class UnreliableDestination:
    """Any destination, reached only sometimes; what is let through keeps its own outcome."""

    def __init__(self, inner: Destination, percent: float, rng: Random) -> None:
        self._inner = inner
        self._percent = percent
        self._rng = rng

    async def attempt(self, delivery: Delivery) -> Outcome:
        if self._rng.random() * 100 < self._percent:
            return await self._inner.attempt(delivery)
        return _FAILED

    async def close(self) -> None:
        await self._inner.close()


class UnreliableImmediateDestination:
    """The same for a destination that never waits."""

    def __init__(self, inner: ImmediateDestination, percent: float, rng: Random) -> None:
        self._inner = inner
        self._percent = percent
        self._rng = rng

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        is_let = [self._rng.random() * 100 < self._percent for _ in deliveries]
        let = [d for d, passes in zip(deliveries, is_let, strict=True) if passes]
        outcomes = iter(self._inner.attempt_all(let))
        return [next(outcomes) if passes else _FAILED for passes in is_let]

    async def close(self) -> None:
        await self._inner.close()
