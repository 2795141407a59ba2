"""`keylane doctor`: looks, judges, prints."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Final

import typer

from keylane.names import full_topic, subscription_name
from keylane.settings import Settings, Source
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, examples

doctor_app = typer.Typer()

_EPILOG: Final = examples(
    "keylane doctor",
    "keylane doctor crm --partitions 6 --strict --json",
    "Exit codes: 0 no errors, 1 errors found (with --strict also for warnings), 69 the broker "
    "can't be reached, 78 configuration.",
)


@doctor_app.command(epilog=_EPILOG)
@with_settings(*CONNECTION)
def doctor(
    settings: Settings,
    source: Source,
    destinations: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DEST",
            help="Destinations to check (default: those of keylane.toml and of the topic).",
            show_default=False,
        ),
    ] = None,
    partitions: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many the topic should have.", show_default=False
        ),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option(help="Send one event through, on a topic of its own beside the topic."),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Let warnings end with exit code 1 as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check broker, topic and destinations; each finding comes with the command that mends it.

    Nothing is changed. The canary's topic is deleted when it is through.
    """
    from keylane.credentials import credentials_of
    from operate.doctor.examining import examine
    from operate.doctor.findings import exit_code
    from operate.doctor.looking import look
    from operate.doctor.mending import role_of
    from operate.doctor.shown import as_json as in_json
    from operate.doctor.shown import show
    from operate.progress import stating

    names = [subscription_name(name) for name in destinations or []]
    credentials = credentials_of(settings.pulsar)
    role = role_of(credentials.token() if credentials else None)
    with stating("connecting") as tell:
        seen = asyncio.run(
            look(settings, names, partitions=partitions, is_with_canary=canary, tell=tell)
        )
    findings = examine(seen, settings, source.config, role)
    if as_json:
        typer.echo(json.dumps(in_json(full_topic(settings.topic), findings)))
    else:
        show(findings)
    raise typer.Exit(exit_code(findings, is_strict=strict))
