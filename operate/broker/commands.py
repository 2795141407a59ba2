"""`keylane broker start|stop|status`: a local Pulsar in the background."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keylane.errors import BrokerUnavailable, ConfigurationError
from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from operate.broker.records import BrokerRecord, all_records, find_record, held
from operate.exits import UNAVAILABLE
from operate.parameters import AsJson, examples

# Those of a Pulsar that was started by hand, and so those that Keylane looks for by itself.
DEFAULT_SERVICE_PORT: Final = 6650
DEFAULT_ADMIN_PORT: Final = 8080

broker_app = typer.Typer(
    help="Run a local Pulsar in the background, for trying things out and for tests.",
    no_args_is_help=True,
)


@broker_app.command(
    epilog=examples(
        "keylane broker start",
        "keylane broker start --service-port 0 --admin-port 0 --data-dir ./pulsar --json",
    )
)
def start(
    service_port: Annotated[
        int,
        typer.Option(metavar="P", min=0, max=65535, help="Port for clients; 0 for any free one."),
    ] = DEFAULT_SERVICE_PORT,
    admin_port: Annotated[
        int,
        typer.Option(metavar="P", min=0, max=65535, help="Port for admin; 0 for any free one."),
    ] = DEFAULT_ADMIN_PORT,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="D",
            help="Folder that keeps the broker's data from one start to the next.",
            show_default="a temporary one, removed at the stop",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a local Pulsar in the background; returns when it is healthy."""
    with held(service_port):
        record = _running(service_port) if service_port else None
        if record is not None:
            _print_started(record, as_json=as_json, was_running=True)
            return
        _refuse_data_in_use(data_dir)
        options = LocalBrokerOptions(service_port, admin_port, data_dir, outlives_owner=True)
        record = _start_on_record(options)
    _print_started(record, as_json=as_json, was_running=False)


@broker_app.command(
    epilog=examples(
        "keylane broker stop",
        "keylane broker stop --all",
    ),
)
def stop(
    service_port: Annotated[
        int,
        typer.Option(metavar="P", min=1, max=65535, help="Service port of the broker to stop."),
    ] = DEFAULT_SERVICE_PORT,
    every: Annotated[bool, typer.Option("--all", help="Stop all of them.")] = False,
) -> None:
    """Stop a local Pulsar that was started in the background."""
    ports = [record.service_port for record in all_records()] if every else [service_port]
    stopped = [port for port in ports if _stop(port)]
    if not stopped:
        typer.echo(_nothing_to_stop(service_port, every=every))


@broker_app.command(
    epilog=examples(
        "keylane broker status",
        "keylane broker status --json",
    ),
)
def status(
    service_port: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            min=1,
            max=65535,
            help="Ask for the broker on this service port only.",
            show_default="all of them",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell which local brokers run; exits with 0 if one is healthy, else with 69."""
    records = [
        record
        for record in all_records()
        if record.is_alive() and service_port in {None, record.service_port}
    ]
    told = [_as_data(record) | {"healthy": record.is_healthy()} for record in records]
    if as_json:
        typer.echo(json.dumps({"brokers": told}))
    else:
        typer.echo("\n".join(map(_status_line, told)) or "No local broker is running.")
    if not any(broker["healthy"] for broker in told):
        raise typer.Exit(UNAVAILABLE)


def _running(service_port: int) -> BrokerRecord | None:
    """The broker on that port; clears away one that has died, raises for one that hangs."""
    record = find_record(service_port)
    if record is None:
        return None
    if not record.is_alive():
        record.end()
        return None
    if not record.is_healthy():
        raise BrokerUnavailable(
            f"The local broker on port {service_port} runs but does not answer; end it with"
            f" `keylane broker stop --service-port {service_port}`."
        )
    return record


def _refuse_data_in_use(data_dir: Path | None) -> None:
    for record in all_records():
        if data_dir and record.data_dir == str(data_dir.resolve()) and record.is_alive():
            raise ConfigurationError(
                f"{data_dir} is in use by the local broker on port {record.service_port}: choose"
                " another folder with --data-dir."
            )


def _start_on_record(options: LocalBrokerOptions) -> BrokerRecord:
    records: list[BrokerRecord] = []

    def save(broker: LocalBroker) -> None:
        _forget(records)  # an earlier try, on a port that was lost
        records.append(BrokerRecord.of(broker))
        records[-1].save()

    try:
        start_local_broker(options, progress=_tell, launched=save)
    except BaseException:
        _forget(records)
        raise
    return records[-1]


def _forget(records: list[BrokerRecord]) -> None:
    for record in records:
        record.forget()


def _stop(service_port: int) -> bool:
    """End the broker on that port; false if none was running any more."""
    with held(service_port):
        record = find_record(service_port)
        if record is None:
            return False
        was_alive = record.is_alive()
        record.end()
    if was_alive:
        typer.echo(f"The local broker on port {service_port} is stopped.")
    return was_alive


def _nothing_to_stop(service_port: int, *, every: bool) -> str:
    if every:
        return "No local broker is running."
    others = [str(record.service_port) for record in all_records() if record.is_alive()]
    hint = f" There are some on {', '.join(others)}: use --service-port or --all." if others else ""
    return f"No local broker is running on port {service_port}.{hint}"


def _print_started(record: BrokerRecord, *, as_json: bool, was_running: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_as_data(record) | {"was_running": was_running}))
        return
    typer.echo("A local broker was running already." if was_running else "A local broker runs.")
    typer.echo(f"service URL  {record.service_url}")
    typer.echo(f"admin URL    {record.admin_url}")
    fate = "temporary, removed at the stop" if record.data_is_temporary else "kept"
    typer.echo(f"data         {record.data_dir} ({fate})")
    if (record.service_port, record.admin_port) != (DEFAULT_SERVICE_PORT, DEFAULT_ADMIN_PORT):
        typer.echo(f"export KEYLANE_PULSAR__SERVICE_URL={record.service_url}")
        typer.echo(f"export KEYLANE_PULSAR__ADMIN_URL={record.admin_url}")


def _status_line(broker: dict[str, Any]) -> str:
    state = "healthy" if broker["healthy"] else "not answering"
    return f"{broker['service_url']}  {broker['admin_url']}  {state}  {broker['data_dir']}"


def _as_data(record: BrokerRecord) -> dict[str, Any]:
    return {
        "service_url": record.service_url,
        "admin_url": record.admin_url,
        "data_dir": record.data_dir,
        "data_is_temporary": record.data_is_temporary,
        "pid": record.process.pid if record.process else None,
        "container": record.container.container_id if record.container else None,
    }


def _tell(line: str) -> None:
    typer.echo(line, err=True)
