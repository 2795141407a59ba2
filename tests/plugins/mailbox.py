"""A plugin as somebody would write it: `mailbox:FOLDER` puts each event into a file of its own.

`options = {suffix = ".json"}` names the files' ending.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import orjson

from dispatch.delivery import Delivery
from dispatch.destinations.opening import Opening
from dispatch.outcome import Delivered, Outcome, Unavailable
from keylane.errors import ConfigurationError


class Mailbox:
    """One file an attempt, whose name has the number of the attempt in it."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix

    async def attempt(self, delivery: Delivery) -> Outcome:
        event = delivery.event
        name = hashlib.sha256(event.id.encode()).hexdigest()[:16]
        path = self._folder / f"{name}-{delivery.attempt}{self._suffix}"
        head = orjson.dumps({"id": event.id, "user": event.user, "attempt": delivery.attempt})
        try:
            await asyncio.to_thread(path.write_bytes, head + b"\n" + event.payload)
        except OSError as error:
            return Unavailable(f"can't write {path}: {error.strerror}", is_down=True)
        return Delivered()

    async def close(self) -> None:
        pass


def open_mailbox(opening: Opening) -> Mailbox:
    """The entry point: `[project.entry-points."keylane.destinations"]` `mailbox = ...`."""
    options = dict(opening.settings.options)
    suffix = options.pop("suffix", ".event")
    if options or not isinstance(suffix, str):
        raise ConfigurationError("mailbox: knows the option suffix, a text, and no other")
    return Mailbox(Path(opening.to.partition(":")[2]), suffix)
