"""`keylane dlq redrive` from beginning to end: what it finishes first, does, waits for and says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import typer

from keylane.settings import Settings
from keylane.topics import ensure_redrive
from operate.deadletters.filters import Filters
from operate.deadletters.redrive import Done, Redrive, Unconfirmed
from operate.deadletters.session import Taking, controlling, looking
from operate.deadletters.shown import figures_of, finished_line, redrive_lines, say_json
from operate.exits import DONE, TRY_AGAIN
from operate.progress import counting

_LOOK_EVERY_S: Final = 0.2
#: Seconds without a word, after which one is said.
_SILENT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """`is_waiting` until the destination has got what was redriven."""

    rate: float | None
    is_dry: bool
    is_waiting: bool
    as_json: bool


async def redrive_letters(
    settings: Settings, destination: str, filters: Filters, options: Options
) -> int:
    """Returns the exit code; raises `KeylaneError`."""
    async with looking(settings, destination) as found:
        if options.is_dry:
            async with controlling(found) as control:
                done, finished = await Redrive(found, control).count(filters)
            return _say(destination, done, finished, options)
        taking = await Taking.open(found)
        await ensure_redrive(found.admin, settings.topic, destination)
        async with controlling(found) as control:
            try:
                done, finished = await _redrive(Redrive(found, control, taking), filters, options)
            except Unconfirmed as error:
                return _say_unconfirmed(destination, error, options)
    return _say(destination, done, finished, options)


async def _redrive(
    redrive: Redrive, filters: Filters, options: Options
) -> tuple[Done, Done | None]:
    with counting("events redriven") as count, _saying_why() as pause, _going_on(redrive):

        def tell(done: int, total: int) -> None:
            pause.cancel()
            count(done, total)

        finished = None
        if (unfinished := redrive.unfinished()) is not None:
            finished = await redrive.finish(unfinished, tell, options.rate)
        done = await redrive.run(filters, tell, options.rate)
    if options.is_waiting:
        await _until_delivered(redrive)
    return done, finished


@contextlib.contextmanager
def _saying_why() -> Iterator[asyncio.TimerHandle]:
    """Why nothing is seen, if it takes long before the first event is sent."""
    line = "Waiting until nothing of these users is under way at any worker."
    loop = asyncio.get_running_loop()
    handle = loop.call_later(_SILENT_S, lambda: typer.echo(line, err=True))
    try:
        yield handle
    finally:
        handle.cancel()


@contextlib.contextmanager
def _going_on(redrive: Redrive) -> Iterator[None]:
    """Say of a run that ends early what it leaves behind."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            if (run := redrive.unfinished()) is not None and run.through is not None:
                typer.echo(
                    "The redrive is not finished: what was sent is acknowledged, the rest lies "
                    "where it lay, and its users' live events wait. Run any `keylane dlq redrive` "
                    "of this destination to go on; nothing is sent twice.",
                    err=True,
                )
        raise


async def _until_delivered(redrive: Redrive) -> None:
    with counting("redriven, not delivered yet") as tell:
        while left := await redrive.undelivered():
            tell(left, None)
            await asyncio.sleep(_LOOK_EVERY_S)


def _say(destination: str, done: Done, finished: Done | None, options: Options) -> int:
    if options.as_json:
        is_dry = options.is_dry
        told = {"destination": destination, "dry_run": is_dry} | figures_of(done, is_dry=is_dry)
        before = None if finished is None else figures_of(finished, is_dry=False)
        say_json(told | {"finished_before": before})
    else:
        if finished is not None:
            typer.echo(finished_line(finished, is_dry=options.is_dry))
        typer.echo("\n".join(redrive_lines(destination, done, is_dry=options.is_dry)))
    return TRY_AGAIN if done.waiting and not options.is_dry else DONE


def _say_unconfirmed(destination: str, error: Unconfirmed, options: Options) -> int:
    if options.as_json:
        say_json({"destination": destination, "dry_run": False, "unconfirmed": error.workers})
    typer.echo(f"keylane: {error}", err=True)
    return TRY_AGAIN
