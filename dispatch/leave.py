"""Gives lanes leave that ask for it, once all that was said of their users so far is known here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from dispatch.clearance import Ask
from dispatch.lanes import Lanes
from keylane.errors import BrokerError

#: Seconds between two looks at what was said; whoever asks meanwhile shares the next one. Each
#: leaves a mark of some 70 bytes in the table.
LOOK_EVERY_S: Final = 0.05
#: Seconds after which a look that failed is repeated.
LOOK_AGAIN_S: Final = 1.0


class Leave:
    """`catch_up` returns when all that was said before holds here."""

    def __init__(
        self,
        lanes: Lanes,
        catch_up: Callable[[], Awaitable[None]],
        log: Any,
        step_soon: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self._catch_up = catch_up
        self._log = log
        self._step_soon = step_soon
        self._loop = asyncio.get_running_loop()
        self._asking: list[Ask] = []
        self._looking: asyncio.Task[None] | None = None
        self._is_unavailable = False

    def ask(self, asks: Sequence[Ask]) -> None:
        self._asking += asks
        if self._looking is None and self._asking:
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._asking:
            asks, self._asking = self._asking, []
            began = self._loop.time()
            try:
                await self._catch_up()
            except BrokerError as error:
                self._tell(error)
                self._asking = asks + self._asking
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            self._tell(None)
            now = self._loop.time()
            for asked in asks:
                self._lanes.clear(asked, now)
            self._step_soon()
            await asyncio.sleep(max(0.0, began + LOOK_EVERY_S - self._loop.time()))
        self._looking = None

    def _tell(self, error: BrokerError | None) -> None:
        if error is not None and not self._is_unavailable:
            self._log.error(
                "leave.unavailable",
                error=str(error),
                consequence="users of whom nothing was attempted here just now wait, in order",
            )
        elif error is None and self._is_unavailable:
            self._log.info("leave.available")
        self._is_unavailable = error is not None

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
