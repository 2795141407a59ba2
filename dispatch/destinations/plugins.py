"""Kinds of destinations that other packages bring, by entry point.

The group is `keylane.destinations`; an entry's name is the scheme, and what it points to is an
`OpenKind` (dispatch/destinations/opening.py). Nothing of a plugin is imported before a destination
asks for it, and one that is broken spoils only what asks for it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.opening import Opening
from keylane.errors import ConfigurationError

GROUP: Final = "keylane.destinations"


def plugin_schemes() -> tuple[str, ...]:
    """Of the plugins that are installed, sorted."""
    return tuple(sorted({entry.name.lower() for entry in entry_points(group=GROUP)}))


def open_plugin(scheme: str, opening: Opening) -> Destination | ImmediateDestination | None:
    """What the plugin of this scheme makes; `None` without one.

    Raises `ConfigurationError`, naming the plugin, whatever it does wrong.
    """
    entries = {e.value: e for e in entry_points(group=GROUP) if e.name.lower() == scheme}
    if not entries:
        return None
    if len(entries) > 1:
        called = " and ".join(sorted(map(_name, entries.values())))
        raise ConfigurationError(f"'{scheme}:' is claimed by {called}: uninstall all but one")
    (entry,) = entries.values()
    try:
        destination = entry.load()(opening)
    except ConfigurationError:
        raise
    # It is somebody else's code: anything may come out of it.
    except Exception as error:
        raise ConfigurationError(
            f"{_name(entry)} can't be opened: {type(error).__name__}: {error}"
        ) from error
    return _checked(destination, entry)


def _checked(destination: object, entry: EntryPoint) -> Destination | ImmediateDestination:
    can_close = callable(getattr(destination, "close", None))
    can_attempt = callable(getattr(destination, "attempt", None))
    if not can_close or not (can_attempt or isinstance(destination, ImmediateDestination)):
        raise ConfigurationError(
            f"{_name(entry)} made a {type(destination).__name__}, which is no destination: it "
            "lacks attempt or close"
        )
    return cast(Destination, destination)


def _name(entry: EntryPoint) -> str:
    package = f" of {entry.dist.name}" if entry.dist else ""
    return f"the plugin '{entry.name}'{package} ({entry.value})"
