"""A session with the workers of a topic: which destinations there are, and who runs for them."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from keylane.admin import PulsarAdmin
from keylane.errors import ConfigurationError
from keylane.names import full_topic, partition_topic, subscription_name
from keylane.questions import Kind
from keylane.settings import Settings
from operate.controlsession import CONFIRM_WITHIN_S, ControlSession, Heard, Said

#: Seconds for answers to questions that a worker answers at once.
ANSWER_WITHIN_S: Final = 3.0


class Overseer:
    """Its methods raise `BrokerError`, and `ConfigurationError` for what does not exist."""

    def __init__(self, settings: Settings, admin: PulsarAdmin, control: ControlSession) -> None:
        self.topic = settings.topic
        self.admin = admin
        self.control = control

    async def partitions(self) -> int:
        found = await self.admin.partitions(full_topic(self.topic))
        if not found:
            raise ConfigurationError(
                f"There is no topic {full_topic(self.topic)} with partitions, so there is nothing "
                "to see. Set KEYLANE_TOPIC, or create it with `keylane topic setup`."
            )
        return found

    async def destinations(self) -> list[str]:
        """Those that have a subscription, by name."""
        await self.partitions()
        return destinations_in(await self.admin.stats(partition_topic(self.topic, 0)))

    async def require(self, destination: str) -> None:
        """Raises `ConfigurationError`, with the names there are, unless it has a subscription."""
        subscription_name(destination)
        found = await self.destinations()
        if destination not in found:
            raise ConfigurationError(unknown(self.topic, destination, found))

    async def running(self, destination: str) -> set[str]:
        return await self.control.running(destination)

    async def heard(
        self, destination: str, said: Iterable[Said], timeout_s: float = CONFIRM_WITHIN_S
    ) -> Heard:
        """Wait until all running workers go by what was said."""
        return await self.control.heard(destination, said, timeout_s)

    async def ask(
        self,
        kind: Kind,
        destination: str | None,
        expected: Iterable[tuple[str, str]],
        **details: Any,
    ) -> list[dict[str, Any]]:
        """The answers of those (destination, worker) that run, as far as they come in time."""
        return await self.control.asker.ask(
            kind, destination, set(expected), ANSWER_WITHIN_S, **details
        )


def destinations_in(statistics: dict[str, Any]) -> list[str]:
    """Of a partition's statistics. Readers have subscriptions too, but none that lasts."""
    found = statistics["subscriptions"].items()
    return sorted(name for name, one in found if one.get("isDurable", True))


def unknown(topic: str, destination: str, known: list[str]) -> str:
    """What is wrong with a name that no subscription has."""
    near = difflib.get_close_matches(destination, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    there = ", ".join(known) or "none"
    return (
        f"{full_topic(topic)} has no subscription '{destination}'; nothing was changed. "
        f"Destinations there: {there}.{hint}"
    )


@contextlib.asynccontextmanager
async def overseeing(settings: Settings) -> AsyncIterator[Overseer]:
    """Raises `BrokerUnavailable` if the broker does not answer in time."""
    from keylane.pulsar import PulsarBroker

    patience_s = settings.pulsar.operation_timeout_s
    async with PulsarAdmin(settings.pulsar, deadline_s=patience_s) as admin:
        broker = PulsarBroker.of(settings.pulsar)
        try:
            async with ControlSession(settings, admin, broker) as control:
                yield Overseer(settings, admin, control)
        finally:
            await broker.close()
