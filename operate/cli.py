"""The `keylane` command: what it takes and what it ends with. What it does stands elsewhere."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from keylane.errors import KeylaneError
from keylane.settings import Settings, Source, effective_settings
from operate.broker.commands import broker_app
from operate.deadletters.commands import dlq_app
from operate.destination import destination_of, on_destination
from operate.destinationcommands import destination_app
from operate.doctor.commands import doctor_app
from operate.exits import exit_code_of
from operate.keys import keys_app
from operate.options import CONNECTION, with_settings
from operate.overseeing.commands import overseeing_app
from operate.overseeing.lanecommands import lane_app, lanes_app
from operate.parameters import AsJson, examples
from operate.replaying.commands import replay_app
from operate.schema import schema_app

_EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 failed, 2 usage, 65 bad data, 69 broker or service unavailable, "
    "75 partly done (try again), 78 configuration, 130 interrupted. A setting is taken from the "
    "option, else from the environment, else from keylane.toml, else its default."
)

app = typer.Typer(
    name="keylane",
    help="Deliver each user's events in order, from HTTP over Apache Pulsar to many destinations.",
    epilog=examples("keylane demo", "keylane topic setup --destination crm", _EXIT_CODES),
    no_args_is_help=True,
    # A traceback with local variables would show secrets and payloads.
    pretty_exceptions_enable=False,
)
topic_app = typer.Typer(help="Set up the topic that holds all events.", no_args_is_help=True)
app.add_typer(topic_app, name="topic")
app.add_typer(broker_app, name="broker")
app.add_typer(keys_app, name="keys")
app.add_typer(schema_app, name="schema")
app.add_typer(destination_app, name="destination")
app.add_typer(dlq_app, name="dlq")
app.add_typer(doctor_app)
app.add_typer(overseeing_app)
app.add_typer(lanes_app)
app.add_typer(lane_app, name="lane")
app.add_typer(replay_app)


class Broker(StrEnum):
    """Which broker a stack runs on."""

    AUTO = "auto"
    PULSAR = "pulsar"
    MEMORY = "memory"


WhichBroker = Annotated[
    Broker,
    typer.Option(
        "--broker",
        help="pulsar: a real one; memory: one in this process, nothing durable; auto: a real one "
        "if this machine can have one, else memory.",
        rich_help_panel="Broker",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"keylane {importlib.metadata.version('keylane')}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and end.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command("config", epilog=examples("keylane config", "keylane config --json"))
@with_settings(*CONNECTION)
def show_config(settings: Settings, as_json: AsJson = False) -> None:
    """Print the effective settings, secrets masked."""
    from operate.show import as_toml

    tree = effective_settings(settings)
    typer.echo(json.dumps(tree) if as_json else as_toml(tree), nl=as_json)


@topic_app.command(
    "setup",
    epilog=examples(
        "keylane topic setup --partitions 6",
        "keylane topic setup --destination crm --destination audit",
    ),
)
@with_settings(*CONNECTION)
def topic_setup(
    settings: Settings,
    partitions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Partitions of the topic (default 3 for a new one, else as it is).",
            show_default=False,
        ),
    ] = None,
    destination: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Make this destination's subscription; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create topic, subscriptions, dead-letter topics and policies; what is there stays."""
    from operate.topics import setup

    changes = asyncio.run(setup(settings, partitions, destination or []))
    if as_json:
        typer.echo(json.dumps({"changes": changes}))
    else:
        typer.echo("\n".join(changes) or "Everything is in place; nothing was changed.")


@app.command(
    epilog=examples(
        "keylane ingest --workers 2",
        "keylane ingest --host 0.0.0.0 --keys-file keylane-keys.json --topic orders",
    )
)
@with_settings(
    *CONNECTION,
    "ingest.host",
    "ingest.port",
    "ingest.workers",
    "ingest.keys_file",
    "ingest.insecure",
    "ingest.rate_limit",
    "ingest.idempotency_store",
    "ingest.deduplicate",
    "ingest.schemas",
    "ingest.schema_folder",
    "ingest.max_in_flight",
    "ingest.send_deadline_s",
    "ingest.drain_timeout_s",
)
def ingest(settings: Settings) -> None:
    """Take events over HTTP and put them on the topic."""
    from ingest.process import run

    raise typer.Exit(run(settings))


@app.command(
    epilog=examples(
        "keylane dispatch crm --to https://example.org/hook --workers 2",
        "keylane dispatch audit --to file:audit.jsonl --max-attempts 3 --backoff-max 60",
    )
)
@with_settings(
    *CONNECTION,
    "dispatch.workers",
    "dispatch.concurrency",
    "dispatch.max_attempts",
    "dispatch.max_age_s",
    "dispatch.backoff_min_s",
    "dispatch.backoff_max_s",
    "dispatch.backoff_multiplier",
    "dispatch.jitter",
    "dispatch.timeout_s",
    "dispatch.max_lane_events",
    "dispatch.admin_host",
    "dispatch.admin_port",
    "dispatch.reliability",
    "dispatch.consumer_name",
    "dispatch.drain_timeout_s",
    laid=on_destination,
)
def dispatch(
    settings: Settings,
    source: Source,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The destination's name.")],
    to: Annotated[  # noqa: ARG001  `on_destination` has made a setting of it
        str | None,
        typer.Option(
            metavar="URI",
            help="Where to: http(s)://, file:PATH, stdout:, pulsar:TOPIC, redis(s)://, slack:, "
            "smtp(s)://, apprise: (default: destinations.NAME.to in keylane.toml).",
            show_default=False,
        ),
    ] = None,
    start: Annotated[  # noqa: ARG001  as above
        str | None,
        typer.Option(
            metavar="TIME",
            help="Where it starts while it has no subscription yet: earliest, latest or an RFC "
            "3339 time (default: destinations.NAME.start, else earliest).",
            show_default=False,
        ),
    ] = None,
    on_dead_letter: Annotated[  # noqa: ARG001  as above
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What becomes of a user's later events after a dead letter: continue (they are "
            "delivered) or hold (they follow it, untried, until a redrive). Default: "
            "destinations.NAME.on_dead_letter, else continue.",
            show_default=False,
        ),
    ] = None,
    on_full_lane: Annotated[  # noqa: ARG001  as above
        str | None,
        typer.Option(
            metavar="WHAT",
            help="When a user has --max-lane-events: wait (receive nothing more) or hold (that "
            "user). Default: destinations.NAME.on_full_lane, else wait.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Deliver the events to one destination, each user's in order.

    On SIGHUP the settings are read again, and no user's events are dropped for it.
    """
    destination_of(settings, name)
    from dispatch.process import run

    raise typer.Exit(run(name, settings, source.load))


@app.command(
    epilog=examples("keylane send events.jsonl", "zcat events.json.gz | keylane send - --json")
)
@with_settings()
def send(
    settings: Settings,  # noqa: ARG001  read so that a wrong one is told here as everywhere
    file: Annotated[
        Path,
        typer.Argument(metavar="[FILE|-]", help="JSON array or JSON lines; - is standard input."),
    ] = Path("-"),
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where `keylane ingest` listens.")
    ] = "http://localhost:8090",
    start_at: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Go on from this line, or element of the array."),
    ] = 1,
    give_up_after: Annotated[
        float,
        typer.Option(metavar="S", min=0, help="Seconds for which a request is tried again."),
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Post the events of a file in their order; prints accepted and refused."""
    from operate.sending import send_and_report

    raise typer.Exit(send_and_report(file, url, start_at, give_up_after, as_json=as_json))


@app.command(epilog=examples("keylane demo", "keylane demo --broker memory --json"))
@with_settings("topic")
def demo(settings: Settings, broker: WhichBroker = Broker.AUTO, as_json: AsJson = False) -> None:
    """Run everything once with sample events, one user failing; then stop it all.

    Starts a broker of its own, on free ports.
    """
    from operate.demo import run_demo

    raise typer.Exit(run_demo(settings, broker=broker.value, as_json=as_json))


@app.command(epilog=examples("keylane up", "keylane up --broker pulsar --port 8091"))
@with_settings(*CONNECTION, "ingest.host", "ingest.port")
def up(settings: Settings, source: Source, broker: WhichBroker = Broker.AUTO) -> None:
    """Run broker, ingest and dispatchers until Ctrl-C.

    Uses the broker at --service-url if one answers there, else starts one. Delivers to the
    destinations of keylane.toml, else to a file and to a webhook that prints. On SIGHUP that file
    is read again.
    """
    from operate.stack import run_stack

    raise typer.Exit(run_stack(settings, broker=broker.value, reread=source.load))


@app.command(
    epilog=examples(
        "keylane receive --port 9000",
        "keylane receive --fail-user user-4 --delay-ms 50 --json",
    )
)
@with_settings()
def receive(
    settings: Settings,  # noqa: ARG001  read so that a wrong one is told here as everywhere
    host: Annotated[str, typer.Option(metavar="TEXT", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="P", min=0, max=65535, help="Port; 0 is any free one.")
    ] = 9000,
    status: Annotated[
        int, typer.Option(metavar="N", min=200, max=599, help="What deliveries are answered.")
    ] = 200,
    fail_user: Annotated[
        str | None,
        typer.Option(metavar="USER", help="Answer 500 to this user's.", show_default=False),
    ] = None,
    delay_ms: Annotated[
        int, typer.Option(metavar="N", min=0, help="Milliseconds before each answer.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Print the deliveries that come as webhooks, until Ctrl-C."""
    from operate.receiver import receive as receive_until_stopped

    raise typer.Exit(
        receive_until_stopped(
            host,
            port,
            status=status,
            fail_user=fail_user,
            delay_s=delay_ms / 1000,
            as_json=as_json,
        )
    )


def main() -> None:
    """Run the command; each error that is ours is one clear message and its exit code."""
    try:
        app()
    except KeylaneError as error:
        typer.echo(f"keylane: {error}", err=True)
        raise SystemExit(exit_code_of(error)) from error
