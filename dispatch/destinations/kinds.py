"""From `--to URI` to a destination."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import unquote, urlsplit

from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.discard import DiscardDestination
from dispatch.destinations.file import FileDestination
from dispatch.destinations.unreliable import (
    UnreliableDestination,
    UnreliableImmediateDestination,
)
from dispatch.destinations.webhook import WebhookDestination
from keylane.errors import ConfigurationError
from keylane.settings import DestinationSettings, DispatchSettings

EVERY_ATTEMPT: Final = 100.0


def open_destination(
    destination: DestinationSettings, options: DispatchSettings
) -> Destination | ImmediateDestination:
    """Open what `to` says; needs a running event loop. Raises `ConfigurationError`."""
    kind = _open(destination, options)
    if options.reliability >= EVERY_ATTEMPT:
        return kind
    rng = Random()  # noqa: S311  chance for a trial, not a secret
    if isinstance(kind, ImmediateDestination):
        return UnreliableImmediateDestination(kind, options.reliability, rng)
    return UnreliableDestination(kind, options.reliability, rng)


def _open(
    destination: DestinationSettings, options: DispatchSettings
) -> Destination | ImmediateDestination:
    to = destination.to
    scheme, _, rest = to.partition(":")
    match scheme.lower():
        case "file" if rest:
            return FileDestination(_path(rest))
        case "http" | "https" if urlsplit(to).hostname:
            secret = destination.secret.get_secret_value() if destination.secret else None
            return WebhookDestination(
                to, timeout_s=options.timeout_s, concurrency=options.concurrency, secret=secret
            )
        case "discard":
            return DiscardDestination()
        case _:
            raise ConfigurationError(
                f"'{to}' is no destination: write file:PATH, http://HOST/..., https://HOST/... "
                "or discard:"
            )


def _path(rest: str) -> Path:
    """`file:out.jsonl`, `file:/var/out.jsonl` and `file:///var/out.jsonl` all name a path."""
    return Path(unquote(rest.removeprefix("//")) if rest.startswith("///") else rest)
