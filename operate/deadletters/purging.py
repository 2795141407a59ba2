"""`keylane dlq purge` and `keylane dlq release` from beginning to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import typer

from keylane.counted import counted
from keylane.settings import Settings
from operate.deadletters.filters import Filters
from operate.deadletters.purge import Marked, Released, held_users, mark, purge, release
from operate.deadletters.session import Taking, controlling, looking
from operate.deadletters.shown import names, say_json
from operate.exits import DONE, FAILED, TRY_AGAIN
from operate.progress import counting

#: Asks a person; blocks.
Ask: TypeAlias = Callable[[str], bool]


async def purge_letters(
    settings: Settings, destination: str, filters: Filters, ask: Ask, as_json: bool
) -> int:
    """Returns the exit code; raises `KeylaneError`."""
    async with looking(settings, destination) as found:
        taking = await Taking.open(found)
        marked = await mark(found, filters)
        async with controlling(found) as control:
            held = sorted(held_users(control, destination) & marked.groups.users)
        question = (
            f"Take away {counted(len(marked.places), 'dead letter')} of "
            f"{counted(len(marked.groups.users), 'user')} at {destination} for good?"
        )
        if marked.places and not await asyncio.to_thread(ask, question):
            typer.echo("Nothing was purged.", err=True)
            return FAILED
        with counting("dead letters purged") as tell:
            await purge(taking, marked, tell)
    if as_json:
        say_json(_data(destination, marked, held))
    else:
        typer.echo("\n".join(_lines(destination, marked, held)))
    return DONE


def _data(destination: str, marked: Marked, held: Sequence[str]) -> dict[str, object]:
    return {
        "destination": destination,
        "purged": len(marked.places),
        "users": len(marked.groups.users),
        "held_users": [{"user": one, "left": marked.left.get(one, 0)} for one in held],
        "in_shared_batches": marked.torn,
    }


def _lines(destination: str, marked: Marked, held: Sequence[str]) -> list[str]:
    users = counted(len(marked.groups.users), "user")
    lines = [f"Purged {counted(len(marked.places), 'dead letter')} of {users} at {destination}."]
    if held:
        lines.append(
            f"Still held: {names(held)}. `keylane dlq redrive {destination} --user U` sends what "
            "is left of a user and lets live events go on; where nothing is left use "
            f"`keylane dlq release {destination} --user U`."
        )
    if marked.torn:
        lines.append(f"{counted(marked.torn, 'dead letter')} left: in one batch with others.")
    return lines


async def release_users(
    settings: Settings, destination: str, users: Iterable[str], ask: Ask, as_json: bool
) -> int:
    """Returns the exit code; raises `KeylaneError`."""
    wanted = list(dict.fromkeys(users))
    question = (
        f"Let events of {names(wanted)} go on at {destination}, before the user's dead letters?"
    )
    if not await asyncio.to_thread(ask, question):
        typer.echo("Nothing was changed.", err=True)
        return FAILED
    async with looking(settings, destination) as found, controlling(found) as control:
        done = [await release(found, control, user) for user in wanted]
    if as_json:
        rows = [
            {"user": one.user, "was": one.stood, "unconfirmed": list(one.unconfirmed)}
            for one in done
        ]
        say_json({"destination": destination, "users": rows})
    else:
        for one in done:
            typer.echo(_released(one))
    return TRY_AGAIN if any(one.unconfirmed for one in done) else DONE


def _released(one: Released) -> str:
    if one.stood is None:
        return f"{one.user} was not held; nothing was changed."
    said = f"{one.user} was {one.stood}; live events go on."
    if one.unconfirmed:
        said += f" No word yet of {names(one.unconfirmed)}: they go by it when they hear it."
    return said
