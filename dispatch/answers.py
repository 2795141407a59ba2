"""Answers to what people ask running workers (keylane/questions.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson

from dispatch.connections import Subscription
from dispatch.control import Control
from keylane.broker import Broker, Channel
from keylane.errors import BrokerError
from keylane.names import questions_channel
from keylane.questions import Kind, answer

#: Seconds for which a worker waits until what it is asked about is in force, and how often it
#: looks.
IN_FORCE_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.02


class Answers:
    """`status` and `lanes` (how many, which user) say how the worker stands."""

    def __init__(
        self,
        subscription: Subscription,
        control: Control,
        log: Any,
        *,
        status: Callable[[], dict[str, Any]],
        lanes: Callable[[int, str | None], list[dict[str, Any]]],
    ) -> None:
        self._subscription = subscription
        self._control = control
        self._log = log
        self._status = status
        self._lanes = lanes
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        #: Questions that are not answered yet, by their id: they are repeated.
        self._open: dict[str, asyncio.Task[None]] = {}

    async def open(self, broker: Broker) -> None:
        """Without a channel the worker answers nobody."""
        try:
            self._channel = await broker.channel(
                questions_channel(self._subscription.topic), self._hear
            )
        except BrokerError as error:
            self._log.warning(
                "questions.unavailable",
                error=str(error),
                consequence="commands get no answer of this worker",
            )

    async def close(self) -> None:
        for task in self._open.values():
            task.cancel()
        await asyncio.gather(*self._open.values(), return_exceptions=True)

    def _hear(self, what: bytes) -> None:
        try:
            asked = orjson.loads(what)
            if "ask" not in asked or asked["destination"] not in (None, self._subscription.name):
                return
            token, kind = str(asked["id"]), Kind(asked["ask"])
            if kind is Kind.STATUS:
                self._say(token, self._status())
            elif kind is Kind.LANES:
                top, user = int(asked.get("top", 20)), asked.get("user")
                self._say(token, {"lanes": self._lanes(top, user)})
            elif token not in self._open:
                look = self._look(token, str(asked.get("key", "")), str(asked.get("token", "")))
                self._open[token] = self._loop.create_task(look)
        except (ValueError, TypeError, KeyError) as error:
            # Anybody may speak there; no worker must end of it.
            self._log.warning("question.unreadable", error=str(error))

    async def _look(self, asked: str, key: str, token: str) -> None:
        """Answer when it is in force; one that asks longer asks again."""
        try:
            async with asyncio.timeout(IN_FORCE_WITHIN_S):
                await self._control.catch_up()
                while not self._control.is_in_force(key, token):  # noqa: ASYNC110  lanes tell nobody
                    await asyncio.sleep(LOOK_EVERY_S)
            self._say(asked, {"applied": token or key})
        except (BrokerError, TimeoutError) as error:
            self._log.warning("question.unanswered", error=str(error))
        finally:
            del self._open[asked]

    def _say(self, token: str, details: dict[str, Any]) -> None:
        if self._channel is not None:
            name, worker = self._subscription.name, self._subscription.consumer_name
            self._channel.say(answer(token, name, worker, details))
