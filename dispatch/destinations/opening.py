"""What a destination is made from, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dispatch.destinations.destination import Destination, ImmediateDestination
from keylane.broker import Broker
from keylane.destinationsettings import ChannelSettings


@dataclass(frozen=True, slots=True)
class Opening:
    """One channel to open. A destination without channels is its own only one, named ''.

    `to` is where, its scheme and all. `timeout_s` bounds an attempt as a whole, `concurrency` how
    many of them run at once. `is_guarded` says that internal addresses are refused.
    `broker` is there for kinds that publish; whoever opened it closes it.
    """

    destination: str
    channel: str
    to: str
    settings: ChannelSettings
    timeout_s: float
    concurrency: int
    is_guarded: bool
    broker: Broker


#: Makes a destination; called in a running event loop. Raises `ConfigurationError`. It must not
#: wait: what connects, connects with the first attempt.
OpenKind: TypeAlias = Callable[[Opening], Destination | ImmediateDestination]
