"""What the broker says of a worker's consumers, asked again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from keylane.admin import PulsarAdmin
from keylane.errors import BrokerError
from keylane.names import partition_topic
from keylane.settings import PulsarSettings
from tests.chaos.explain import Absence
from tests.stage import Stage
from tests.waiting import until

_INTERVAL_S = 0.1


@dataclass(slots=True)
class _Seen:
    """One partition's consumer: `True` there, `False` not, `None` not known yet."""

    is_there: bool | None = None
    #: Before the question that it was last there at.
    last_there: float = 0.0
    #: The same, of when it was dropped; and after the answer that it first wasn't there in.
    there_until: float = 0.0
    first_gone: float = 0.0
    absences: list[tuple[float, float]] = field(default_factory=list)


class Watch:
    """Looks at one consumer name on all partitions of a subscription."""

    def __init__(self, stage: Stage, subscription: str, name: str, sender: str) -> None:
        self._stage = stage
        self._subscription = subscription
        self._name = name
        self._sender = sender
        self._seen = {number: _Seen() for number in range(stage.partitions)}

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Watch]:
        looking = asyncio.create_task(self._look())
        try:
            yield self
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def is_there(self, within_s: float) -> None:
        """Wait until the broker has it on all partitions."""
        await until(lambda: self._all(True), within_s, lambda: f"{self._name}: {self._seen}")

    async def is_gone(self, within_s: float) -> None:
        """Wait until the broker has dropped it from all partitions."""
        await until(lambda: self._all(False), within_s, lambda: f"{self._name}: {self._seen}")

    @property
    def dropped(self) -> tuple[float, float]:
        """Between when and when the broker dropped it, from the first partition to the last."""
        seen = self._seen.values()
        return min(s.there_until for s in seen), max(s.first_gone for s in seen)

    def absences(self) -> list[Absence]:
        return [
            Absence(self._sender, partition, from_, to)
            for partition, seen in self._seen.items()
            for from_, to in seen.absences
        ]

    def _all(self, expected: bool) -> bool:
        return all(seen.is_there is expected for seen in self._seen.values())

    async def _look(self) -> None:
        settings = PulsarSettings(admin_url=self._stage.broker.admin_url)
        async with PulsarAdmin(settings, deadline_s=0.5) as admin:
            while True:
                for partition, seen in self._seen.items():
                    asked_at = time.monotonic()
                    with contextlib.suppress(BrokerError):  # down, or busy with an unload
                        self._note(seen, await self._asks(admin, partition), asked_at)
                await asyncio.sleep(_INTERVAL_S)

    async def _asks(self, admin: PulsarAdmin, partition: int) -> bool:
        topic = partition_topic(self._stage.topic, partition)
        found = await admin.subscription_stats(topic, self._subscription)
        return found is not None and self._name in {c["consumerName"] for c in found["consumers"]}

    def _note(self, seen: _Seen, is_there: bool, asked_at: float) -> None:
        was_there, seen.is_there = seen.is_there, is_there
        if is_there:
            seen.last_there = asked_at
            return
        if was_there:
            seen.there_until, seen.first_gone = seen.last_there, time.monotonic()
            seen.absences.append((seen.first_gone, seen.first_gone))
        if seen.absences:
            seen.absences[-1] = (seen.first_gone, max(seen.first_gone, asked_at))
