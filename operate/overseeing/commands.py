"""`keylane status|pause|resume`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Final

import typer

from keylane.settings import Settings
from operate.exits import TRY_AGAIN
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, Dest, examples

overseeing_app = typer.Typer()

#: As long as other commands wait for workers (operate/controlsession.py).
_WITHIN_S: Final = 15.0
Within = Annotated[
    float, typer.Option(metavar="S", min=0.1, help="Seconds for the workers to confirm it.")
]
_EXITS: Final = (
    "Exit codes: 0 all running workers have confirmed it, 75 some have not yet, 69 no broker, "
    "78 no such destination."
)


@overseeing_app.command(
    epilog=examples(
        "keylane pause crm",
        "keylane pause crm --within 60 --json",
        _EXITS,
    )
)
@with_settings(*CONNECTION)
def pause(
    settings: Settings, destination: Dest, within: Within = _WITHIN_S, as_json: AsJson = False
) -> None:
    """Let no attempt start at a destination, at any worker, until `keylane resume`.

    Attempts that run end as usual; events wait in order. It holds over restarts. When this has
    ended with 0 no attempt starts any more.
    """
    from operate.overseeing.overseer import overseeing
    from operate.overseeing.pausing import pause as say_paused
    from operate.overseeing.waiting import saying

    async def work() -> Any:
        async with overseeing(settings) as overseer:
            told = f"Waiting until the workers of {destination} confirm..."
            return await saying(told, say_paused(overseer, destination, within))

    done = asyncio.run(work())
    again = " (it was before)" if done.was_paused else ""
    _conclude(
        done.as_dict(),
        f"{destination} is paused{again}",
        "The pause stays said, and they go by it as soon as they hear it. Until then they may "
        f"start attempts. Look: keylane status {destination}; then run this again.",
        as_json=as_json,
    )


@overseeing_app.command(
    epilog=examples(
        "keylane resume crm",
        "keylane resume crm --json",
        _EXITS,
    )
)
@with_settings(*CONNECTION)
def resume(
    settings: Settings, destination: Dest, within: Within = _WITHIN_S, as_json: AsJson = False
) -> None:
    """Let attempts go on at a destination that was paused, or that had itself disabled."""
    from operate.overseeing.overseer import overseeing
    from operate.overseeing.pausing import resume as take_back
    from operate.overseeing.waiting import saying

    async def work() -> Any:
        async with overseeing(settings) as overseer:
            told = f"Waiting until the workers of {destination} confirm..."
            return await saying(told, take_back(overseer, destination, within))

    done = asyncio.run(work())
    what = [
        *(["it was paused"] if done.was_paused else []),
        *(["it had disabled itself"] if done.was_disabled else []),
    ]
    because = " and ".join(what) or "it was neither paused nor disabled"
    _conclude(
        done.as_dict(),
        f"{destination} goes on ({because})",
        f"They go on as soon as they hear it. Look: keylane status {destination}; then run this "
        "again.",
        as_json=as_json,
    )


@overseeing_app.command(
    epilog=examples(
        "keylane status",
        "keylane status crm audit --json",
        "keylane status --watch --every 5",
    )
)
@with_settings(*CONNECTION)
def status(
    settings: Settings,
    destination: Annotated[
        list[str] | None,
        typer.Argument(metavar="DEST", help="Destinations (default all of the topic)."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(metavar="S", min=0.2, help="Seconds between two looks.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show how destinations stand: backlog, what waits, what failed, breaker, and each worker.

    Backlogs are the broker's count of messages, in which a producer's batch is one.
    """
    from operate.overseeing.watching import watch as show

    asyncio.run(show(settings, destination or [], every if watch else None, as_json=as_json))


def _conclude(told: dict[str, Any], said: str, if_not: str, *, as_json: bool) -> None:
    """Print what came of it; ends with 75 if somebody has not confirmed."""
    confirmed, unconfirmed = told["confirmed"], told["unconfirmed"]
    if as_json:
        typer.echo(json.dumps(told))
    elif unconfirmed:
        running = len(confirmed) + len(unconfirmed)
        typer.echo(f"{said}, but only {len(confirmed)} of {running} workers have confirmed it.")
    else:
        typer.echo(f"{said}: {_counted(confirmed)}.")
    if unconfirmed:
        _tell(f"Not confirmed in time by {', '.join(unconfirmed)}. {if_not}")
        raise typer.Exit(TRY_AGAIN)


def _counted(confirmed: list[str]) -> str:
    if not confirmed:
        return "no worker runs, those that start find it so"
    number = "1 worker has" if len(confirmed) == 1 else f"{len(confirmed)} workers have"
    return f"{number} confirmed it"


def _tell(line: str) -> None:
    typer.echo(line, err=True)
