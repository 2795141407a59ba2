"""`keylane destination list|test|rotate-secret|resume`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.table import Table

from keylane.broker import Broker
from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.masking import mask_url
from keylane.names import subscription_name
from keylane.settings import Settings, Source
from operate.console import console
from operate.destination import destination_of
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, examples

_PAYLOAD: Final = '{"keylane": "test"}'

destination_app = typer.Typer(
    help="List and test the destinations of keylane.toml, and rotate their secrets.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The destination's name.")]


@destination_app.command(
    "list",
    epilog=examples(
        "keylane destination list",
        "keylane destination list --json",
    ),
)
@with_settings()
def list_destinations(settings: Settings, as_json: AsJson = False) -> None:
    """List every destination and channel with its kind and address, secrets masked."""
    rows = [row for name, own in settings.destinations.items() for row in _rows(name, own)]
    if as_json:
        typer.echo(json.dumps({"destinations": rows}))
        return
    if rows:
        _print(rows)
    typer.echo(f"{len(settings.destinations)} destinations are configured.")


def _rows(name: str, own: DestinationSettings) -> list[dict[str, Any]]:
    places = {key: one.to for key, one in own.channels.items()} or {"": own.to}
    return [
        {
            "name": name,
            "channel": channel or None,
            "kind": (to or "").partition(":")[0].lower(),
            "address": mask_url(to or ""),
        }
        for channel, to in places.items()
    ]


@destination_app.command(
    "test",
    epilog=examples(
        "keylane destination test crm",
        'keylane destination test crm --user 42 --payload \'{"hello": "world"}\' --json',
        "Exit codes: 0 delivered, 1 not taken, 75 not taken now (try again), 78 configuration.",
    ),
)
@with_settings()
def try_destination(
    settings: Settings,
    name: Name,
    user: Annotated[str, typer.Option(metavar="U", help="Whose event it is.")] = "keylane-test",
    payload: Annotated[
        str, typer.Option(metavar="JSON", help="What it carries.", show_default=_PAYLOAD)
    ] = _PAYLOAD,
    channel: Annotated[
        str | None,
        typer.Option(metavar="C", help="Only this channel.", show_default="each of them"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send one event straight to the destination, past the topic, and show what it says.

    The event has an id that begins with "test-", the type keylane.test and the mark
    keylanetest=true.
    """
    from operate.destinationtest import TestEvent, channels_of, exit_code, test_channel

    try:
        json.loads(payload)
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint="--payload") from error
    places = channels_of(destination_of(settings, name), name, channel)
    event = TestEvent.of(user, payload.encode())

    async def attempt_each() -> list[Any]:
        broker = _session(settings)
        try:
            return [await test_channel(settings, name, one, event, broker) for one in places]
        finally:
            await broker.close()

    answers = asyncio.run(attempt_each())
    request = {"id": event.id, "type": "keylane.test", "user": user, "payload": payload}
    if as_json:
        told = {"destination": name, "request": request, "answers": [asdict(a) for a in answers]}
        typer.echo(json.dumps(told))
    else:
        _print([request])
        _print([asdict(answer) for answer in answers])
    raise typer.Exit(exit_code(answers))


def _session(settings: Settings) -> Broker:
    # It connects when something is published, and most kinds publish nothing.
    from keylane.pulsar import PulsarBroker

    return PulsarBroker.of(settings.pulsar)


@destination_app.command(
    "rotate-secret",
    epilog=examples(
        "keylane destination rotate-secret crm",
        "keylane destination rotate-secret crm --finish",
    ),
)
@with_settings()
def rotate_secret(
    settings: Settings,
    source: Source,
    name: Name,
    keep: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many of the secrets so far stay in use.")
    ] = 1,
    finish: Annotated[
        bool, typer.Option("--finish", help="Make none; drop all but the newest.")
    ] = False,
    channel: Annotated[
        str | None, typer.Option(metavar="C", help="This channel's.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new secret to sign webhooks with; the one so far signs beside it until --finish.

    A secret at file:PATH is rotated there. For any other the new one is printed, to be set by you.
    """
    from operate.destinationsecret import reference_of, rotate

    own = destination_of(settings, name)
    if channel is None and own.channels:
        known = ", ".join(sorted(own.channels))
        raise ConfigurationError(
            f"The secrets of '{name}' are those of its channels; say --channel: {known}."
        )
    if channel is not None and channel not in own.channels:
        raise ConfigurationError(f"Destination '{name}' has no channel '{channel}'.")
    rotation = rotate(reference_of(source.raw(), name, channel), keep=keep, is_finishing=finish)
    if as_json:
        typer.echo(json.dumps({"destination": name, "channel": channel} | asdict(rotation)))
    elif rotation.secret:
        typer.echo(rotation.secret)
    place = f"destinations.{name}" + (f".channels.{channel}" if channel else "") + ".secret"
    is_first = own.secret is None and channel is None
    for line in _next_steps(rotation, place, is_first=is_first):
        typer.echo(line, err=True)


@destination_app.command("resume", epilog="Example:\n\nkeylane destination resume crm")
@with_settings(*CONNECTION)
def resume_destination(settings: Settings, name: Name, as_json: AsJson = False) -> None:
    """Let attempts go on at a destination that had itself disabled, by 410 for example."""
    from operate.destinationresume import resume

    subscription_name(name)

    async def tell_workers() -> bool:
        broker = _session(settings)
        try:
            return await resume(name, settings, broker)
        finally:
            await broker.close()

    was_disabled = asyncio.run(tell_workers())
    if as_json:
        typer.echo(json.dumps({"destination": name, "was_disabled": was_disabled}))
    elif was_disabled:
        typer.echo(f"{name} is resumed; its workers go on where they stopped.")
    else:
        typer.echo(f"{name} was not disabled; nothing was changed.")


def _next_steps(rotation: Any, place: str, *, is_first: bool) -> list[str]:
    """What is left to do, in the order in which it has to be done."""
    signal = "Send SIGHUP to `keylane dispatch` or `keylane up`: it reads the settings again."
    if rotation.is_written and rotation.secret is None:
        return [f"{rotation.reference} holds the newest secret only.", signal]
    if rotation.is_written:
        return [
            f"{rotation.reference} begins with the new secret; {rotation.kept} from before stay.",
            signal,
            "Give the receiver the new secret; until then it goes by the one it knows.",
            "Then drop the old one: run this again with --finish.",
        ]
    where = f"the variable {rotation.reference[4:]}" if rotation.reference else place
    if rotation.secret is None:
        return [f"Nothing was changed: leave only the first secret in {where}.", signal]
    if is_first:
        return [
            f"Nothing was changed: put it into {place}, or into a file and file:PATH there.",
            signal,
            "Give it to the receiver.",
        ]
    return [
        f"Nothing was changed: put the new secret, a space and the one so far into {where}.",
        "Restart `keylane dispatch` or `keylane up`: a variable of a process does not change."
        if rotation.reference
        else signal,
        "Give the receiver the new secret, then leave only the new one there.",
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console().print(table)
