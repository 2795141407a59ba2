"""What the commands on dead letters work with, opened and closed in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from keylane.admin import PulsarAdmin
from keylane.errors import PublishUnconfirmed, SubscriptionBusy
from keylane.names import DEAD_LETTER_SUBSCRIPTION, dead_letter_topic
from keylane.pulsar import PulsarBroker
from keylane.pulsarlog import Acknowledger, PulsarLogs
from keylane.settings import Settings
from operate.controlsession import ControlSession
from operate.deadletters.letter import Place
from operate.deadletters.view import View

#: The consumer's name, as `pulsar-admin topics stats` shows it.
CONSUMER_NAME: Final = "keylane-dlq"
#: Seconds until the broker shows what was acknowledged; and for saying it once more before that.
SHOWN_WITHIN_S: Final = 30.0
AGAIN_AFTER_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Looking:
    """Enough to look; nothing is changed with it."""

    settings: Settings
    destination: str
    admin: PulsarAdmin
    logs: PulsarLogs
    view: View


@contextlib.asynccontextmanager
async def looking(settings: Settings, destination: str) -> AsyncIterator[Looking]:
    """Raises `ConfigurationError` if there is no such dead-letter topic, else `BrokerError`."""
    async with PulsarAdmin(settings.pulsar) as admin, PulsarLogs(settings.pulsar) as logs:
        view = await View.open(admin, logs, settings.topic, destination)
        yield Looking(settings, destination, admin, logs, view)


@contextlib.asynccontextmanager
async def controlling(found: Looking) -> AsyncIterator[ControlSession]:
    """With the control table; raises `BrokerError`."""
    broker = PulsarBroker.of(found.settings.pulsar)
    try:
        async with ControlSession(found.settings, found.admin, broker) as control:
            yield control
    finally:
        await broker.close()


class Taking:
    """The right to acknowledge dead letters, which only one command has at a time."""

    def __init__(self, view: View, consumers: dict[int, Acknowledger]) -> None:
        self._view = view
        self._consumers = consumers

    @classmethod
    async def open(cls, found: Looking) -> Taking:
        """Raises `SubscriptionBusy` if somebody else has it."""
        opened: dict[int, Acknowledger] = {}
        for part, name in found.view.parts.items():
            try:
                opened[part] = await found.logs.acknowledger(
                    name, DEAD_LETTER_SUBSCRIPTION, CONSUMER_NAME
                )
            except SubscriptionBusy as error:
                dead = dead_letter_topic(found.settings.topic, found.destination)
                raise SubscriptionBusy(
                    f"Somebody else takes the dead letters of '{found.destination}': another "
                    "`keylane dlq` command, or a consumer of the subscription "
                    f"{DEAD_LETTER_SUBSCRIPTION} of {dead}. Nothing was done. Try again when it "
                    "has ended; `pulsar-admin topics stats` names it."
                ) from error
        return cls(found.view, opened)

    async def acknowledge(self, places: Iterable[Place]) -> None:
        """Tell the broker; `confirm` makes sure of it."""
        by_part = defaultdict(list)
        for place in places:
            by_part[place.part].append(place.position)
        for part, positions in by_part.items():
            await self._consumers[part].acknowledge(positions)

    async def confirm(self, places: Iterable[Place]) -> None:
        """Return when the broker shows all of them as acknowledged.

        Raises `PublishUnconfirmed` if it does not in time.
        """
        left = list(places)
        loop = asyncio.get_running_loop()
        until, again_at = loop.time() + SHOWN_WITHIN_S, loop.time() + AGAIN_AFTER_S
        while left := await self._unacknowledged(left):
            if loop.time() > until:
                raise PublishUnconfirmed(
                    f"The broker doesn't show {len(left)} dead letters as acknowledged after "
                    f"{SHOWN_WITHIN_S:g} s. Run the same command again; nothing is done twice."
                )
            if loop.time() > again_at:
                again_at = until
                await self.acknowledge(left)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _unacknowledged(self, places: list[Place]) -> list[Place]:
        if not places:
            return []
        done = await self._view.acknowledged()
        return [one for one in places if not done[one.part].has(one.entry[1])]
