"""Where `keylane dispatch NAME` delivers to."""

from __future__ import annotations

import difflib

from keylane.errors import ConfigurationError
from keylane.names import subscription_name
from keylane.settings import DestinationSettings, Settings


def with_destination(settings: Settings, name: str, to: str | None) -> Settings:
    """The settings with the destination in it: `--to` before what the settings say.

    Raises `ConfigurationError` if neither says where to.
    """
    subscription_name(name)
    known = settings.destinations.get(name)
    if to:
        secret = known.secret if known else None
        destination = DestinationSettings(to=to, secret=secret)
        destinations = {**settings.destinations, name: destination}
        return settings.model_copy(update={"destinations": destinations})
    if known is None:
        near = difflib.get_close_matches(name, settings.destinations, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            f"Destination '{name}' has no address; nothing was started. Give --to, or write "
            f'[destinations.{name}] with to = "..." into keylane.toml.{hint}'
        )
    return settings
