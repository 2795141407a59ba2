"""A channel on Pulsar: a non-persistent topic, a producer and a reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any


class PulsarChannel:
    """`open` blocks; `say` does not."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._producer: Any = None
        self._reader: Any = None

    def open(self, publishing: Any, consuming: Any, topic: str, latest: Any) -> None:
        """Raises what the client raises."""
        self._reader = consuming.create_reader(topic, latest, reader_listener=self._on_message)
        self._producer = publishing.create_producer(
            topic, batching_enabled=False, block_if_queue_full=False
        )

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
        await asyncio.to_thread(_close, [c for c in (producer, reader) if c is not None])


def _ignore(_result: Any, _message_id: Any) -> None:
    """What a producer wants to be called back with."""


def _close(closables: list[Any]) -> None:
    for closable in closables:
        # What the broker closed already, or can't be told of, is as good as closed.
        with contextlib.suppress(Exception):
            closable.close()
