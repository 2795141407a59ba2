"""`keylane keys create|list|revoke`: the API keys that `keylane ingest` takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.table import Table

from keylane.apikeys import (
    DEFAULT_SCOPES,
    Key,
    Scope,
    create_key,
    find_keys,
    read_keys,
    revoke,
)
from keylane.settings import Settings
from operate.console import console
from operate.exits import FAILED
from operate.options import with_settings
from operate.parameters import AsJson, Yes, examples, need_terminal

DEFAULT_FILE: Final = Path("keylane-keys.json")

_KEYS_FILE: Final = "ingest.keys_file"
_COLUMNS: Final = ("id", "name", "scopes", "topic", "created", "expires", "state")
_MOST_DAYS: Final = 36_500

keys_app = typer.Typer(
    help="Make, list and revoke the API keys that senders present. The file is --keys-file, else "
    f"{DEFAULT_FILE} in the working folder.",
    no_args_is_help=True,
)


@keys_app.command(
    epilog=examples(
        "keylane keys create shop",
        "keylane keys create shop --tenant acme --expires-in 90 --keys-file /etc/keylane/keys.json",
        "keylane keys create prometheus --scope metrics:read --json",
    )
)
@with_settings(_KEYS_FILE)
def create(
    settings: Settings,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Whose key it is; several keys may have one name."),
    ],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it may do; repeatable.", show_default=f"{' and '.join(DEFAULT_SCOPES)}"
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="Its events go to the topic in this tenant's namespace.",
            show_default=False,
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Its events go to this topic.", show_default="that of the service"
        ),
    ] = None,
    expires_in: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS", min=1, max=_MOST_DAYS, help="Days it is taken.", show_default="for ever"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once.

    To rotate a key make a new one of the same name, give it to the sender, then revoke the old one.
    """
    if tenant is not None and topic is not None:
        raise typer.BadParameter("give one of the two", param_hint="--tenant / --topic")
    path = _path(settings)
    made = create_key(
        path,
        name,
        scopes=scope or DEFAULT_SCOPES,
        tenant=tenant,
        topic=topic,
        expires_at=_now() + timedelta(days=expires_in) if expires_in else None,
    )
    typer.echo(
        json.dumps({"key": made.text, "file": str(path)} | _as_data(made.key))
        if as_json
        else made.text
    )
    _tell("This key is not shown again: the file keeps only its hash.")
    _tell(f"Its id is {made.key.id}; it is in {_described(path, settings)}.")
    if settings.ingest.keys_file is None:
        _tell(f"Have it asked for with: keylane ingest --keys-file {path}")


@keys_app.command(
    "list",
    epilog=examples(
        "keylane keys list",
        "keylane keys list --json",
    ),
)
@with_settings(_KEYS_FILE)
def list_keys(settings: Settings, as_json: AsJson = False) -> None:
    """List every key on file, revoked ones too; neither keys nor their hashes are shown."""
    path = _path(settings)
    keys = read_keys(path)
    if as_json:
        typer.echo(json.dumps({"file": str(path), "keys": [_as_data(key) for key in keys]}))
        return
    if keys:
        console().print(_table(keys))
    console().print(f"{len(keys)} keys in {_described(path, settings)}.", soft_wrap=True)


@keys_app.command(
    "revoke",
    epilog=examples(
        "keylane keys revoke 5f0c2a91d3",
        "keylane keys revoke shop --yes",
    ),
)
@with_settings(_KEYS_FILE)
def revoke_keys(
    settings: Settings,
    which: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="A key's id, or a name: all keys of that name.")
    ],
    yes: Yes = False,
) -> None:
    """Revoke a key, or all keys of a name, for good; services refuse it within seconds."""
    need_terminal(yes, "revoke")
    path = _path(settings)
    active = [key for key in find_keys(read_keys(path), which) if not key.revoked_at]
    if active and not yes:
        asked = ", ".join(map(_called, active))
        if not typer.confirm(f"Revoke {asked} in {_described(path, settings)}?", err=True):
            typer.echo("Nothing was revoked.")
            raise typer.Exit(FAILED)
    done = revoke(path, which)
    for key in done.now:
        typer.echo(f"{_called(key)} is revoked in {_described(path, settings)}.")
    for key in () if done.now else done.before:
        typer.echo(f"{_called(key)} was revoked already, at {_moment(key.revoked_at)}.")


def _path(settings: Settings) -> Path:
    return settings.ingest.keys_file or DEFAULT_FILE


def _described(path: Path, settings: Settings) -> str:
    if settings.ingest.keys_file is None:
        return f"{path} in the working folder (no --keys-file was given)"
    return str(path)


def _called(key: Key) -> str:
    return f"{key.name} ({key.id})"


def _table(keys: tuple[Key, ...]) -> Table:
    table = Table(*_COLUMNS, box=box.SIMPLE_HEAD)
    for key in keys:
        table.add_row(
            key.id,
            key.name,
            ", ".join(key.scopes),
            key.topic or (f"of tenant {key.tenant}" if key.tenant else ""),
            _moment(key.created_at),
            _moment(key.expires_at),
            key.state(_now()).value,
        )
    return table


def _as_data(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "tenant": key.tenant,
        "topic": key.topic,
        "created_at": _moment(key.created_at),
        "expires_at": _moment(key.expires_at) or None,
        "revoked_at": _moment(key.revoked_at) or None,
        "state": key.state(_now()).value,
    }


def _moment(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _tell(line: str) -> None:
    typer.echo(line, err=True)
