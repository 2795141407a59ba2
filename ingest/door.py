"""The way in, and out: who is inside is served to the end, whoever comes later is refused."""

from __future__ import annotations

import asyncio

from ingest.refusals import ShuttingDown


class Door:
    """Counts requests that are being served; a context manager around each of them."""

    def __init__(self) -> None:
        self.is_open = True
        #: Whether others are to send requests here; ends before `is_open` does.
        self.is_inviting = True
        self.inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def __enter__(self) -> None:
        """Let a request in; raises `ShuttingDown` after `close`."""
        if not self.is_open:
            raise ShuttingDown
        self.inside += 1
        self._empty.clear()

    def __exit__(self, *_exc: object) -> None:
        self.inside -= 1
        if not self.inside:
            self._empty.set()

    def give_notice(self) -> None:
        """Say that the door is about to close, so that nobody new comes."""
        self.is_inviting = False

    def close(self) -> None:
        self.is_open = self.is_inviting = False

    async def emptied(self) -> None:
        """Wait until everyone who was inside has been answered."""
        await self._empty.wait()
