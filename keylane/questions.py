"""Questions to running workers, and their answers, on a channel of the broker.

Nothing is stored: who runs hears it, and the one who asked waits for as long as he likes. What has
to outlast a restart is put into the control table (keylane/controlrecord.py), and asked about here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

import orjson

from keylane.broker import Broker, Channel
from keylane.controlrecord import new_token
from keylane.names import questions_channel

#: Questions are repeated so often: a worker may have been connecting.
ASK_AGAIN_S: Final = 0.5


class Kind(StrEnum):
    """What can be asked."""

    STATUS = "status"
    """How a worker stands: its figures."""
    LANES = "lanes"
    """Of which users most is unfinished; `top` says how many, `user` asks for one only."""
    APPLIED = "applied"
    """Whether the record with `token` under `key` is in force; answered when it is.

    With a token and no key: all records that have this token."""


def question(kind: Kind, token: str, destination: str | None, details: dict[str, Any]) -> bytes:
    return orjson.dumps({"ask": kind, "id": token, "destination": destination} | details)


def answer(token: str, destination: str, worker: str, details: dict[str, Any]) -> bytes:
    """What one worker says to a question."""
    return orjson.dumps({"answer": token, "destination": destination, "worker": worker} | details)


class Asker:
    """Asks and collects; opened by `open`, closed with the broker's session."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._answers: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._came = asyncio.Event()

    async def open(self, broker: Broker, topic: str) -> None:
        """Raises `BrokerUnavailable`."""
        self._channel = await broker.channel(questions_channel(topic), self._hear)

    async def ask(
        self,
        kind: Kind,
        destination: str | None,
        expected: Collection[tuple[str, str]],
        timeout_s: float,
        **details: Any,
    ) -> list[dict[str, Any]]:
        """Each worker's answer, sorted by destination and worker.

        Returns when all `expected` ones, each (destination, worker), have answered, or after
        `timeout_s` seconds with what there is. Workers that nobody expected may be among them.
        """
        if self._channel is None:
            raise RuntimeError("use Asker after `open`")
        token = new_token()
        answers = self._answers[token] = {}
        asked = question(kind, token, destination, details)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while (now := loop.time()) < until and not answers.keys() >= set(expected):
            self._channel.say(asked)
            self._came.clear()
            ask_again_at = min(until, now + ASK_AGAIN_S)
            while loop.time() < ask_again_at and not answers.keys() >= set(expected):
                await self._wait(ask_again_at - loop.time())
        del self._answers[token]
        return [answers[key] for key in sorted(answers)]

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._came.wait()
        except TimeoutError:
            return
        self._came.clear()

    def _hear(self, what: bytes) -> None:
        try:
            found = orjson.loads(what)
            answers = self._answers.get(found.get("answer"))
            if answers is not None:
                answers[str(found["destination"]), str(found["worker"])] = found
                self._came.set()
        except (ValueError, TypeError, KeyError, AttributeError):
            # Anybody may speak there.
            return
