"""A channel on Pulsar: a non-persistent topic, a producer and a reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from keylane.pulsarclient import Client, close_all

#: The client's own; who is not told within it is told by what comes later.
_SEND_TIMEOUT_S: Final = 30.0


class PulsarChannel:
    """`open` blocks; `say` does not."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._producer: Any = None
        self._reader: Any = None

    def open(self, publishing: Client, consuming: Client, topic: str) -> None:
        """Raises `BrokerUnavailable`."""
        self._reader = consuming.reader(topic, self._on_message)
        self._producer = publishing.producer(topic, _SEND_TIMEOUT_S)

    def say(self, what: bytes) -> None:
        if self._producer is not None:
            # The client raises when it is closed or its queue is full: then nobody hears it.
            with contextlib.suppress(Exception):
                self._producer.send_async(what, _ignore)

    def _on_message(self, _: Any, message: Any) -> None:
        # On the client's thread, where nothing may be raised. The loop may be gone.
        with contextlib.suppress(Exception):
            self._loop.call_soon_threadsafe(self._hear, message.data())

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        reader, self._reader = self._reader, None
        await asyncio.to_thread(close_all, [c for c in (producer, reader) if c is not None])


def _ignore(_result: Any, _message_id: Any) -> None:
    """What a producer wants to be called back with."""
