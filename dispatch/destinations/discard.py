"""`discard:` takes everything and keeps nothing; for measuring and for trials."""

from __future__ import annotations

from collections.abc import Sequence

from dispatch.delivery import Delivery
from dispatch.outcome import Delivered, Outcome

_DELIVERED = Delivered()


class DiscardDestination:
    """Delivered, always."""

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        return [_DELIVERED] * len(deliveries)

    async def close(self) -> None:
        pass
