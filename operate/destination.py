"""The destination that a command names; the command line goes before what is written of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.names import subscription_name
from keylane.settings import Settings, Source

#: Options of the command that are a destination's and nobody else's.
_GIVEN: Final = ("to", "start", "on_dead_letter", "on_full_lane")
_OWN: Final = DestinationSettings.model_fields.keys()


def on_destination(source: Source, given: Mapping[str, Any]) -> Source:
    """Where `keylane dispatch NAME --to URI ...` reads: its options become the destination's own.

    Raises `ConfigurationError` if nothing can have that name.
    """
    name, to = subscription_name(given["name"]), given["to"]
    if not to and name not in source.raw().get("destinations", {}):
        return source
    shared = dict(source.overrides.get("dispatch", {}))
    own = {field: shared.pop(field) for field in [*shared] if field in _OWN}
    own |= {field: given.get(field) for field in _GIVEN}
    laid = {"dispatch": shared, "destinations": {name: own}}
    return Source(source.config, {**source.overrides, **laid})


def destination_of(settings: Settings, name: str) -> DestinationSettings:
    """Raises `ConfigurationError`, with the nearest name, if there is none of this name."""
    subscription_name(name)
    if name in settings.destinations:
        return settings.destinations[name]
    near = difflib.get_close_matches(name, settings.destinations, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigurationError(
        f"Destination '{name}' has no address; nothing was started. Give --to, or write "
        f'[destinations.{name}] with to = "..." into keylane.toml.{hint}'
    )
