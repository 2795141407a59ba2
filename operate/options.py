"""Settings as options of a command: names, help, defaults and variables come from the tree."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import typer

from keylane.logs import configure_logging
from keylane.settings import Source, all_settings
from keylane.sources import Setting

CONNECTION: Final = ("pulsar.service_url", "pulsar.admin_url", "topic")
LOGS: Final = ("log.format", "log.level")
_PANELS: Final[Mapping[str, str]] = {
    "pulsar": "Broker",
    "topic": "Broker",
    "log": "Logs and configuration",
    "ingest": "Service",
    "dispatch": "Delivery",
}
#: Parameters of a command that are no options.
_READ: Final = frozenset({"settings", "source"})
#: Options that their last word alone would not tell apart.
_NAMES: Final[Mapping[str, str]] = {"log.level": "--log-level"}
_METAVARS: Final[Mapping[str, str]] = {
    "dispatch.reliability": "PERCENT",
    "dispatch.jitter": "F",
    "dispatch.backoff_multiplier": "X",
    "dispatch.admin_port": "P",
    "ingest.port": "P",
    "ingest.keys_file": "FILE",
}

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="File with settings (default keylane.toml in the working folder, if it is there).",
        rich_help_panel=_PANELS["log"],
        show_default=False,
    ),
]


def with_settings(
    *paths: str, laid: Callable[[Source, Mapping[str, Any]], Source] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings, and `settings` read from all sources.

    The command has a parameter `settings` beside its own ones, and may have `source`, to read them
    again. `laid` makes settings of the command's own options. Logging is set up by then.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        known = all_settings()
        signature = inspect.signature(command)
        parameters_of = signature.parameters
        chosen = [known[tuple(path.split("."))] for path in (*paths, *LOGS)]

        @functools.wraps(command)
        def read_and_run(**given: Any) -> None:
            overrides = _tree((setting, given.pop(_parameter(setting))) for setting in chosen)
            source = Source(given.pop("config"), overrides)
            if laid:
                source = laid(source, given)
            settings = source.load()
            configure_logging(settings.log.format, settings.log.level)
            read: dict[str, Any] = {"settings": settings, "source": source}
            command(**{name: read[name] for name in _READ & parameters_of.keys()}, **given)

        own = get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(annotation=own[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in parameters_of.items()
            if name not in _READ
        ]
        parameters += [_keyword(_parameter(setting), _annotation(setting)) for setting in chosen]
        parameters.append(_keyword("config", Config))
        # Typer reads these two; it takes the command for one with all these parameters.
        read_and_run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # known to inspect
        read_and_run.__annotations__ = {p.name: p.annotation for p in parameters}
        return read_and_run

    return decorate


def _tree(given: Iterable[tuple[Setting, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for setting, value in given:
        branch = tree
        for part in setting.path[:-1]:
            branch = branch.setdefault(part, {})
        branch[setting.path[-1]] = value
    return tree


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _parameter(setting: Setting) -> str:
    return "_".join(setting.path)


def _annotation(setting: Setting) -> Any:
    dotted = ".".join(setting.path)
    kind = _kind(setting)
    name = _NAMES.get(dotted, setting.option)
    option = typer.Option(
        # What a file or the environment says can be taken back, too.
        f"{name}/--no-{name[2:]}" if kind is bool else name,
        metavar=None if kind is bool else _metavar(dotted, kind),
        help=f"{setting.field.description} ({_origin(setting)})",
        rich_help_panel=_PANELS[setting.path[0]],
        show_default=False,
    )
    return Annotated[kind | None, option]


def _kind(setting: Setting) -> type:
    """What Typer parses it as; bounds and choices are checked by the tree, as for every source."""
    inner = {setting.field.annotation, *get_args(setting.field.annotation)}
    return next((kind for kind in (bool, int, float) if kind in inner), str)


def _metavar(dotted: str, kind: type) -> str:
    if dotted.endswith("_s"):
        return "S"
    default = {int: "N", float: "X"}.get(kind, "TEXT")
    return _METAVARS.get(dotted, "URL" if dotted.endswith("_url") else default)


def _origin(setting: Setting) -> str:
    default = f"default {setting.default}; " if setting.default else ""
    return default + setting.variable
