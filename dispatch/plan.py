"""What holds for one destination: its own settings before those of all; and what a reload may take.

A command-line option of `keylane dispatch` goes before both, because it is laid on the
destination's own settings (operate/destination.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from dispatch.breaker import BreakerOptions
from dispatch.holding import Holding
from dispatch.options import LaneOptions
from dispatch.pace import PaceOptions
from dispatch.retry import Backoff, RetryPolicy
from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.settings import DispatchSettings, Settings

#: What a running worker can't change: its lanes, its queue and its port are made from it.
_OF_A_START: Final = frozenset(
    {
        *("workers", "concurrency", "max_lane_events", "lane_payload_events", "lease_s"),
        *("payload_budget_bytes", "admin_host", "admin_port", "consumer_name", "drain_timeout_s"),
        *("start", "slow_share", "slow_after_s", "on_dead_letter", "on_full_lane"),
        # What it remembers has to outlive a reload.
        "once",
    }
)
_FOR_ALL: Final = ("topic", "pulsar", "log")


def dispatch_of(settings: Settings, name: str) -> DispatchSettings:
    """The settings of this destination's workers.

    Raises `ConfigurationError` if its own and those of all don't fit together.
    """
    own = settings.destinations[name]
    said = {
        field: value
        for field in DispatchSettings.model_fields
        if (value := getattr(own, field, None)) is not None
    }
    try:
        return DispatchSettings.model_validate(settings.dispatch.model_dump() | said)
    except ValidationError as error:
        told = "; ".join(f"{d['loc'][0]}: {d['msg']}" for d in error.errors())
        raise ConfigurationError(
            f"The settings of destination '{name}' don't fit those of dispatch: {told}. "
            "Nothing was started."
        ) from error


def is_guarded(settings: Settings, name: str) -> bool:
    """Whether the destination, or a channel of it that does not say, refuses internal addresses.

    Without `http.guard` it does where others can reach what this machine serves.
    """
    guard = settings.destinations[name].http.guard
    if guard == "auto":
        hosts = (settings.ingest.host, settings.dispatch.admin_host)
        return not all(map(_is_loopback, hosts))
    return guard == "on"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Reload:
    """What a running worker goes on with.

    `settings` have what can change in place; `later` names what needs a restart, by its path.
    """

    settings: Settings
    later: tuple[str, ...]


def reloaded(old: Settings, new: Settings, name: str) -> Reload:
    """What of `new` the workers of destination `name` can take over from `old`.

    Raises `ConfigurationError` if the destination is gone.
    """
    if name not in new.destinations:
        raise ConfigurationError(f"destination '{name}' is no longer configured")
    dispatch, later = _taken_over(old.dispatch, new.dispatch)
    own, of_its_own = _taken_over(old.destinations[name], new.destinations[name])
    kept: dict[str, Any] = {field: getattr(old, field) for field in _FOR_ALL}
    changed = new.model_copy(
        update=kept | {"dispatch": dispatch, "destinations": {**new.destinations, name: own}}
    )
    dispatch_of(changed, name)
    of_all = [path for field in _FOR_ALL for path in _differing(old, new, field)]
    return Reload(
        changed,
        (
            *of_all,
            *(f"dispatch.{field}" for field in later if _is_followed(field, old, name)),
            *(f"destinations.{name}.{field}" for field in of_its_own),
        ),
    )


def reloaded_all(old: Settings, new: Settings) -> Reload:
    """The same for all destinations of `old`, and with an ingest that can change nothing.

    Destinations that are new or gone need a restart.
    """
    kept = old
    later: dict[str, None] = {}
    for name in old.destinations:
        if name not in new.destinations:
            later[f"destinations.{name}"] = None
            continue
        one = reloaded(old, new, name)
        own = {name: one.settings.destinations[name]}
        kept = kept.model_copy(
            update={
                "dispatch": one.settings.dispatch,
                "destinations": {**kept.destinations, **own},
            }
        )
        later |= dict.fromkeys(one.later)
    later |= dict.fromkeys(_differing(old, new, "ingest"))
    new_ones = new.destinations.keys() - old.destinations.keys()
    later |= dict.fromkeys(f"destinations.{name}" for name in sorted(new_ones))
    return Reload(kept, tuple(later))


def _is_followed(field: str, settings: Settings, name: str) -> bool:
    """Whether the destination has no setting of its own there."""
    return getattr(settings.destinations[name], field, None) is None


def _taken_over(old: Any, new: Any) -> tuple[Any, list[str]]:
    """The new section with what can't change as it was, and the names of that which would have."""
    fixed = [field for field in type(old).model_fields if field in _OF_A_START]
    later = [field for field in fixed if getattr(old, field) != getattr(new, field)]
    return new.model_copy(update={field: getattr(old, field) for field in later}), later


def _differing(old: Any, new: Any, field: str) -> Iterator[str]:
    """The paths of the settings below `field` that differ; no values, which may be secret."""
    before, after = getattr(old, field), getattr(new, field)
    if before == after:
        return
    if not isinstance(before, BaseModel):
        yield field
        return
    for name in type(before).model_fields:
        if getattr(before, name) != getattr(after, name):
            yield f"{field}.{name}"


def policy_of(options: DispatchSettings) -> RetryPolicy:
    """What is done about outcomes."""
    return RetryPolicy(
        max_attempts=options.max_attempts,
        max_age_s=options.max_age_s,
        backoff=Backoff(
            options.backoff_min_s,
            options.backoff_max_s,
            options.backoff_multiplier,
            options.jitter,
        ),
        rng=Random(),  # noqa: S311  spreads load, guards nothing
    )


def pace_of(own: DestinationSettings, options: DispatchSettings) -> PaceOptions:
    """How many attempts may start."""
    return PaceOptions(
        concurrency=options.concurrency,
        rate_limit=own.rate_limit,
        breaker=BreakerOptions(**own.breaker.model_dump()),
    )


def lanes_of(own: DestinationSettings, options: DispatchSettings) -> LaneOptions:
    """How users' events wait."""
    return LaneOptions(
        concurrency=options.concurrency,
        max_lane_events=options.max_lane_events,
        lane_payload_events=options.lane_payload_events,
        payload_budget_bytes=options.payload_budget_bytes,
        lease_s=options.lease_s,
        slow_after_s=own.slow_after_s,
        slow_share=own.slow_share,
        holding=Holding(
            dead_letter=own.on_dead_letter == "hold", full_lane=own.on_full_lane == "hold"
        ),
    )
