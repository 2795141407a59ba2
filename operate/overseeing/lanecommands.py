"""`keylane lanes` and `keylane lane skip|dead-letter|retry-now`."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Final

import typer

from keylane.controlrecord import What
from keylane.counted import counted
from keylane.errors import KeylaneError
from keylane.settings import Settings
from operate.console import console
from operate.exits import FAILED, TRY_AGAIN
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, Dest, Yes, examples, need_terminal

lanes_app = typer.Typer()
lane_app = typer.Typer(
    help="Decide on the event that a user waits for: the one at the head of the user's lane.",
    no_args_is_help=True,
)

User = Annotated[str, typer.Argument(metavar="USER", help="Whose lane it is.")]

_EXITS: Final = (
    "Exit codes: 0 carried out, 1 the user has no lane, 69 no worker, 75 not carried out "
    "yet, 78 no such destination."
)


@lanes_app.command(
    epilog=examples(
        "keylane lanes crm --top 5",
        "keylane lanes crm --user 42 --json",
    )
)
@with_settings(*CONNECTION)
def lanes(
    settings: Settings,
    destination: Dest,
    top: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many users.")] = 20,
    user: Annotated[
        str | None, typer.Option(metavar="U", help="Only this user's.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which users are stuck, and what the event that each waits for was answered last.

    First come users whose event was attempted before; among them who has waited longest, then who
    has most events here.
    """
    from operate.overseeing import tables
    from operate.overseeing.lanes import lanes_at
    from operate.overseeing.overseer import overseeing

    async def work() -> Any:
        async with overseeing(settings) as overseer:
            return await lanes_at(overseer, destination, top=top, user=user)

    found = asyncio.run(work())
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        if found.lanes:
            console().print(tables.lanes(found.lanes))
        typer.echo(_summed_up(found, user))
    if found.unanswered:
        _tell(f"No answer of {', '.join(found.unanswered)}: what they have is not shown.")
        raise typer.Exit(TRY_AGAIN)


def _summed_up(found: Any, user: str | None) -> str:

    if found.lanes:
        workers = counted(len(found.answered), "worker")
        return f"{counted(len(found.lanes), 'lane')}; {workers} answered."
    if not found.answered:
        return f"No worker of {found.destination} has answered."
    whose = "There is no lane" if user is None else f"User '{user}' has no lane"
    workers = counted(len(found.answered), "worker")
    return f"{whose} at {found.destination}; {workers} answered."


@lane_app.command(
    epilog=examples(
        "keylane lane skip crm user-42",
        "keylane lane skip crm user-42 --yes",
        _EXITS,
    )
)
@with_settings(*CONNECTION)
def skip(
    settings: Settings,
    destination: Dest,
    user: User,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drop the event that a user waits for, for this destination and for good.

    `keylane lane dead-letter` keeps it.
    """
    need_terminal(yes, "drop the event")
    _order(settings, destination, user, What.SKIP, asks=not yes, as_json=as_json)


@lane_app.command(
    "dead-letter",
    epilog=examples(
        "keylane lane dead-letter crm user-42",
        "keylane lane dead-letter crm user-42 --json",
        _EXITS,
    ),
)
@with_settings(*CONNECTION)
def dead_letter(settings: Settings, destination: Dest, user: User, as_json: AsJson = False) -> None:
    """Give up the event that a user waits for; it goes to the dead letters, the next one follows.

    `keylane dlq redrive` delivers it once more.
    """
    _order(settings, destination, user, What.DEAD_LETTER, as_json=as_json)


@lane_app.command(
    "retry-now",
    epilog=examples(
        "keylane lane retry-now crm user-42",
        "keylane lane retry-now crm user-42 --json",
        _EXITS,
    ),
)
@with_settings(*CONNECTION)
def retry_now(settings: Settings, destination: Dest, user: User, as_json: AsJson = False) -> None:
    """Attempt the event that a user waits for now, whatever is left of its backoff."""
    _order(settings, destination, user, What.RETRY_NOW, as_json=as_json)


def _order(
    settings: Settings,
    destination: str,
    user: str,
    what: What,
    *,
    asks: bool = False,
    as_json: bool,
) -> None:
    from operate.overseeing import tables
    from operate.overseeing.orders import at_work

    found = asyncio.run(_found(settings, destination, user))
    if not found.lanes:
        _nothing_waits(found, user)
    lane = at_work(found.lanes)
    if not as_json:
        console().print(tables.facts(_described(lane, len(found.lanes))))
    if asks and not typer.confirm(f"Drop this event for {destination}, for good?", err=True):
        _tell("Nothing was dropped.")
        raise typer.Exit(FAILED)
    # A session of its own: nothing stays connected while a person thinks. The order names the
    # event, so it does not meet another one.
    _conclude(asyncio.run(_ordered(settings, destination, lane, what)), as_json=as_json)


async def _found(settings: Settings, destination: str, user: str) -> Any:
    from operate.overseeing.orders import lanes_of_user
    from operate.overseeing.overseer import overseeing

    async with overseeing(settings) as overseer:
        return await lanes_of_user(overseer, destination, user)


async def _ordered(settings: Settings, destination: str, lane: dict[str, Any], what: What) -> Any:
    from operate.overseeing.orders import order
    from operate.overseeing.overseer import overseeing
    from operate.overseeing.waiting import saying

    async with overseeing(settings) as overseer:
        state = lane["state"].replace("_", " ")
        told = f"Waiting until it is carried out (the event was {state})..."
        return await saying(told, order(overseer, destination, lane, what))


def _conclude(done: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done.as_dict()))
    elif done.is_applied:
        typer.echo(_carried_out(done.order, done.lane))
    if not done.is_applied:
        by = f" by {', '.join(done.heard.unconfirmed)}" if done.heard.unconfirmed else ""
        _tell(
            f"Not carried out yet{by}. The order stays said, for this event only, and a worker "
            f"carries it out as soon as it can. Look: keylane lanes {done.destination} --user "
            f"{done.lane['user']}"
        )
        raise typer.Exit(TRY_AGAIN)


def _nothing_waits(found: Any, user: str) -> None:
    if found.unanswered:
        _tell(
            f"User '{user}' has no lane where that was answered, and no answer came of "
            f"{', '.join(found.unanswered)}; nothing was ordered. Try again."
        )
        raise typer.Exit(TRY_AGAIN)
    raise KeylaneError(
        f"User '{user}' has no lane at {found.destination} (asked: {', '.join(found.answered)}); "
        f"nothing was ordered. Who has one: keylane lanes {found.destination}"
    )


def _described(lane: dict[str, Any], lanes_in_all: int) -> list[tuple[str, str]]:

    status = "" if lane["last_status"] is None else f"{lane['last_status']}, "
    facts = [
        ("user", lane["user"]),
        ("event", lane["id"] or "(its message is at the broker now)"),
        ("position", lane["position"]),
        ("state", f"{lane['state'].replace('_', ' ')}, at {lane['worker']}"),
        ("attempts", f"{lane['attempt'] - 1} made so far"),
        ("last answer", f"{status}{lane['last_error']}" if lane["last_error"] else "none"),
        ("behind it", f"{counted(lane['events'] - 1, 'event')} of the user"),
    ]
    if lane["partition"] < 0:
        facts.append(("sent", "once more, by a redrive or a replay"))
    if lanes_in_all > 1:
        facts.append(("of", f"{lanes_in_all} lanes of the user the one that is at work"))
    return facts


def _carried_out(what: What, lane: dict[str, Any]) -> str:
    done = {
        What.SKIP: "The event is dropped; the next one follows.",
        What.DEAD_LETTER: "The event goes to the dead letters; the next one follows.",
        What.RETRY_NOW: "The event is attempted as soon as there is room.",
    }[what]
    if lane["state"] == "in_flight":
        return f"{done} If the attempt that ran went well, it was delivered instead."
    return done


def _tell(line: str) -> None:
    typer.echo(line, err=True)
