"""`keylane status`, once or again and again."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.live import Live

from keylane.controlrecord import now
from keylane.errors import BrokerError
from keylane.names import full_topic
from keylane.settings import Settings
from operate.console import console
from operate.overseeing import tables
from operate.overseeing.overseer import Overseer, overseeing
from operate.overseeing.standing import Standing
from operate.overseeing.status import standings


async def watch(
    settings: Settings, names: Sequence[str], every_s: float | None, *, as_json: bool
) -> None:
    """Print how they stand; every so many seconds, drawn over on a terminal.

    Raises `ConfigurationError` for a name without subscription, `BrokerError` at the first look
    only: who watches sees a broker come back.
    """
    async with overseeing(settings) as overseer:
        found = await standings(overseer, names)
        if every_s is None or as_json or not sys.stdout.isatty():
            _print(overseer, found, as_json=as_json)
            while every_s is not None:
                await asyncio.sleep(every_s)
                await _look_again(overseer, names, as_json=as_json)
            return
        with Live(tables.status(found), screen=True, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(every_s)
                try:
                    live.update(tables.status(await standings(overseer, names)), refresh=True)
                except BrokerError as error:
                    live.update(str(error), refresh=True)


async def _look_again(overseer: Overseer, names: Sequence[str], *, as_json: bool) -> None:
    try:
        _print(overseer, await standings(overseer, names), as_json=as_json)
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")


def _print(overseer: Overseer, found: Sequence[Standing], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(as_dict(overseer.topic, found)) + "\n")
    else:
        console().print(tables.status(found))
    sys.stdout.flush()


def as_dict(topic: str, found: Sequence[Standing]) -> dict[str, Any]:
    """The documented form (docs/json/status.schema.json)."""
    return {
        "topic": full_topic(topic),
        "at": now(),
        "destinations": [one.as_dict() for one in found],
    }
