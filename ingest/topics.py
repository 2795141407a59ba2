"""The intake of each topic: one for all, or one for each tenant whose keys name another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from ingest.accept import Intake
from ingest.link import BrokerLink
from keylane.errors import KeylaneError

log = structlog.get_logger()

#: Seconds that the first request for a topic waits until its publisher is there.
OPEN_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.02

#: Make the link, and the intake on it, of a topic.
MakeLink = Callable[[str], BrokerLink]
MakeIntake = Callable[[BrokerLink], Intake]


@dataclass(frozen=True, slots=True)
class _Open:
    link: BrokerLink
    intake: Intake
    connecting: asyncio.Task[None]


class Topics:
    """Opens a topic's publisher when it is first needed, and keeps it connected."""

    def __init__(self, default: str, make_link: MakeLink, make_intake: MakeIntake) -> None:
        self.default = default
        self._make_link = make_link
        self._make_intake = make_intake
        #: Told how many events were confirmed after their request had been answered.
        self.on_late_receipts: Callable[[int], None] = lambda _count: None
        self._open: dict[str, _Open] = {}

    async def keep_default(self) -> None:
        """Keep the default topic open, for ever; raises what makes that impossible."""
        await self._begin(self.default).connecting

    async def intake(self, topic: str) -> Intake:
        opened = self._open.get(topic)
        if opened is None:
            opened = self._begin(topic)
            opened.connecting.add_done_callback(lambda task: self._forget(topic, task))
            deadline = asyncio.get_running_loop().time() + OPEN_S
            while not (opened.link.is_connected() or opened.connecting.done()):
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(_LOOK_EVERY_S)
        return opened.intake

    def _begin(self, topic: str) -> _Open:
        link = self._make_link(topic)
        connecting = asyncio.create_task(link.keep_connected())
        intake = self._make_intake(link)
        intake.on_late_receipts = self.on_late_receipts
        opened = self._open[topic] = _Open(link, intake, connecting)
        return opened

    def _forget(self, topic: str, task: asyncio.Task[None]) -> None:
        # The next request tries again: somebody may have made the tenant's namespace meanwhile.
        self._open.pop(topic, None)
        if not task.cancelled() and (error := task.exception()):
            if not isinstance(error, KeylaneError):
                log.error("topic.failed", topic=topic, exc_info=error)
            log.error("topic.failed", topic=topic, error=str(error))

    def is_connected(self) -> bool:
        opened = self._open.get(self.default)
        return opened is not None and opened.link.is_connected()

    def events_in_flight(self) -> int:
        return sum(opened.intake.events_in_flight for opened in self._open.values())

    async def stop(self, close: Callable[[BrokerLink], Awaitable[None]]) -> None:
        """Close everything that is open, whatever its state."""
        opened = list(self._open.values())
        for one in opened:
            one.connecting.cancel()
        await asyncio.gather(*(one.connecting for one in opened), return_exceptions=True)
        await asyncio.gather(*(close(one.link) for one in opened))
