"""A running worker that reads its settings again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import structlog

from dispatch.plan import reloaded
from keylane.errors import ConfigurationError
from keylane.settings import Settings
from keylane.sources import WrongSettings

log = structlog.get_logger()

#: Reads the settings again; raises `ConfigurationError`. It has to pass to another process.
Reread: TypeAlias = Callable[[], Settings]


class Reload:
    """Asked for with `ask`, done one at a time by whoever waits in `next`."""

    def __init__(self, reread: Reread) -> None:
        self._reread = reread
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the settings read again; what is asked for meanwhile is done with it."""
        self._asked.set()

    async def next(self, name: str, settings: Settings) -> Settings | None:
        """Wait until it is asked for; returns what destination `name` goes on with.

        None if what is configured now can't be used; that is in the log then.
        """
        await self._asked.wait()
        self._asked.clear()
        return await asyncio.to_thread(read_again, self._reread, name, settings)


def read_again(reread: Reread, name: str, settings: Settings) -> Settings | None:
    """The settings with what can change in place; None if they have mistakes, which are logged."""
    try:
        result = reloaded(settings, reread(), name)
    except ConfigurationError as error:
        refuse(name, error)
        return None
    if result.later:
        log.warning(
            "configuration.kept",
            destination=name,
            settings=list(result.later),
            consequence="takes effect after a restart",
        )
    return result.settings


def refuse(name: str, error: ConfigurationError) -> None:
    """Tell that a configuration can't be used, and everything that is wrong with it."""
    problems = error.problems if isinstance(error, WrongSettings) else [str(error)]
    log.error(
        "configuration.refused",
        destination=name,
        problems=problems,
        consequence="the settings from before go on",
    )
