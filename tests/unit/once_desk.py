"""A store and channels that do what a test tells them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinations.channels import OnceDestination
from dispatch.once.memory import MemoryStore
from dispatch.once.store import Doubt, Names, Record, StoreDown, unix_ms
from dispatch.outcome import Delivered, Outcome
from tests.messages import Message, make_delivery


def delivery(event_id: str = "event-1", entry: int = 3, redelivered: int = 0) -> Delivery:
    made = make_delivery(id=event_id)
    message = replace(
        cast(Message, made.message), position=(7, entry, -1), redelivery_count=redelivered
    )
    return Delivery(message, 0, made.attempt)


def name(channel: str, event_id: str = "event-1") -> bytes:
    return Names("topic", "crm").name(channel, "Ada", event_id)


class ScriptedStore(MemoryStore):
    """Shared by those who take each other's place; may be down, or keep somebody waiting."""

    def __init__(self, ttl_s: float = 60.0, now_ms: Callable[[], int] = unix_ms) -> None:
        super().__init__(ttl_s=ttl_s, now_ms=now_ms)
        self.is_down = False
        self.is_closed = False
        self.asked: list[tuple[Sequence[bytes], Doubt]] = []
        self.written: list[Mapping[bytes, Record | None]] = []
        #: What was begun by somebody else, by name.
        self.begun: dict[bytes, Record] = {}

    @override
    async def open(self) -> None:
        self._require_up()

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        self.asked.append((names, doubt))
        self._require_up()
        found = await super().begin(names, doubt)
        return [record or self.begun.get(n) for n, record in zip(names, found, strict=True)]

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        self._require_up()
        self.written.append(records)
        await super().finish(records)

    def _require_up(self) -> None:
        if self.is_down:
            raise StoreDown("away")

    @override
    async def close(self) -> None:
        self.is_closed = True


class Channel:
    """Gives its outcomes one after the other, the last one for ever."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self.outcomes = list(outcomes) or [Delivered()]
        self.attempts: list[str] = []
        self.is_closed = False
        #: Set where an attempt shall wait.
        self.gate = asyncio.Event()
        self.gate.set()

    async def attempt(self, delivery: Delivery) -> Outcome:
        self.attempts.append(delivery.event.id)
        outcome = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
        await self.gate.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def close(self) -> None:
        self.is_closed = True


class ImmediateChannel:
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.attempts = 0

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        self.attempts += len(deliveries)
        return [self.outcome] * len(deliveries)

    async def close(self) -> None:
        pass


def opened(store: MemoryStore, *, wait: bool = False, **channels: Channel) -> OnceDestination:
    """`only` stands for the one channel of a destination without channels."""
    named = {"" if n == "only" else n: channel for n, channel in channels.items()}
    on_failure = "wait" if wait else "deliver"
    return OnceDestination("crm", named, store, topic="topic", on_failure=on_failure)  # type: ignore[arg-type]
