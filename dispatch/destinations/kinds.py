"""From the settings of a destination to the destination.

A kind is known by the scheme of `to`. What only some kinds need is imported when one is opened: the
others start sooner, and do without packages that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit

from dispatch.destinations.destination import Destination, ImmediateDestination
from dispatch.destinations.discard import DiscardDestination
from dispatch.destinations.file import FileDestination
from dispatch.destinations.opening import Opening, OpenKind
from dispatch.destinations.unreliable import (
    UnreliableDestination,
    UnreliableImmediateDestination,
)
from keylane.broker import Broker
from keylane.destinationsettings import ChannelSettings, DestinationSettings
from keylane.errors import ConfigurationError
from keylane.masking import mask_url
from keylane.names import full_topic
from keylane.settings import DispatchSettings

if TYPE_CHECKING:
    from dispatch.once.opening import Stores

Opened: TypeAlias = Destination | ImmediateDestination

EVERY_ATTEMPT: Final = 100.0
#: Where several channels remember what each has had, unless a store is set.
CHANNELS_STORE: Final = "memory:"
_GUARDS: Final = {"on": True, "off": False}
#: What the extra `notify` brings.
_NOTIFY_PACKAGES: Final = frozenset({"aiosmtplib", "apprise", "jinja2"})


def open_destination(
    name: str,
    settings: DestinationSettings,
    options: DispatchSettings,
    *,
    is_guarded: bool,
    broker: Broker,
    topic: str = "",
    stores: Stores | None = None,
) -> Opened:
    """Open a destination, or each of its channels; needs a running event loop.

    `topic` is the one that the events come from; nothing is delivered back to it. `is_guarded`
    holds where `http.guard` says nothing. `stores` outlive the destination. Raises
    `ConfigurationError`.
    """

    def opened(channel: str, to: ChannelSettings) -> Opened:
        opening = Opening(
            name,
            channel,
            to.to or "",
            to,
            timeout_s=settings.timeout_s or options.timeout_s,
            concurrency=settings.concurrency or options.concurrency,
            is_guarded=_GUARDS.get(to.http.guard, is_guarded),
            broker=broker,
        )
        _require_no_circle(opening, topic)
        return _unreliable(open_kind(opening), options.reliability)

    if not settings.channels and settings.once.store is None:
        return opened("", settings)
    channels = {name: opened(name, channel) for name, channel in settings.channels.items()}
    from dispatch.destinations.channels import OnceDestination
    from dispatch.once.opening import Stores

    once, stores = settings.once, stores or Stores()
    store = stores.get(
        once.store.get_secret_value() if once.store else CHANNELS_STORE,
        broker=broker,
        topic=topic,
        destination=name,
        ttl_s=once.ttl_s,
    )
    return OnceDestination(
        name,
        channels or {"": opened("", settings)},
        store,
        topic=topic,
        on_failure=once.on_failure,
        counts=stores.counts,
    )


def _unreliable(kind: Opened, percent: float) -> Opened:
    if percent >= EVERY_ATTEMPT:
        return kind
    rng = Random()  # noqa: S311  chance for a trial, not a secret
    if isinstance(kind, ImmediateDestination):
        return UnreliableImmediateDestination(kind, percent, rng)
    return UnreliableDestination(kind, percent, rng)


def open_kind(opening: Opening) -> Opened:
    """What the scheme of `opening.to` stands for. Raises `ConfigurationError`."""
    scheme = opening.to.partition(":")[0].lower()
    try:
        if kind := KINDS.get(scheme):
            return kind(opening)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NOTIFY_PACKAGES:
            raise
        raise ConfigurationError(
            f"{scheme}: needs the package {package}: pip install 'keylane[notify]'"
        ) from error
    from dispatch.destinations.plugins import open_plugin

    return open_plugin(scheme, opening) or _refuse(opening.to, scheme)


def _refuse(to: str, scheme: str) -> NoReturn:
    """Say what there is instead, and what was meant perhaps."""
    from dispatch.destinations.plugins import plugin_schemes

    plugins = plugin_schemes()
    near = get_close_matches(scheme, [*KINDS, *plugins], n=1)
    hint = f" (did you mean {near[0]}:?)" if near else ""
    others = f"; of plugins {', '.join(f'{plugin}:' for plugin in plugins)}" if plugins else ""
    raise ConfigurationError(
        f"'{mask_url(to)}' is no destination{hint}: there are "
        f"{', '.join(f'{known}:' for known in KINDS)}{others}"
    )


def _require_no_circle(opening: Opening, topic: str) -> None:
    scheme, _, target = opening.to.partition(":")
    if topic and scheme.lower() == "pulsar" and full_topic(target) == full_topic(topic):
        raise ConfigurationError(
            f"destination '{opening.destination}': {opening.to} is where its events come from; "
            "each would come again for ever"
        )


# The kinds


def _file(opening: Opening) -> Opened:
    rest = opening.to.partition(":")[2]
    if not rest.strip("/"):
        raise ConfigurationError(f"'{opening.to}' names no file: write file:PATH")
    return FileDestination(_path(rest))


def _path(rest: str) -> Path:
    """`file:out.jsonl`, `file:/var/out.jsonl` and `file:///var/out.jsonl` all name a path."""
    return Path(unquote(rest.removeprefix("//")) if rest.startswith("///") else rest)


def _webhook(opening: Opening) -> Opened:
    try:
        has_host = bool(urlsplit(opening.to).hostname)
    except ValueError:
        has_host = False
    if not has_host:
        raise ConfigurationError(f"'{mask_url(opening.to)}' names no host: write https://HOST/...")
    from dispatch.destinations.webhook import open_webhook

    return open_webhook(opening)


def _discard(_opening: Opening) -> Opened:
    return DiscardDestination()


def _stdout(opening: Opening) -> Opened:
    from dispatch.destinations.stdout import open_stdout

    return open_stdout(opening)


def _topic(opening: Opening) -> Opened:
    from dispatch.destinations.topic import open_topic

    return open_topic(opening)


def _redis(opening: Opening) -> Opened:
    from dispatch.destinations.redisstream import open_redis_stream

    return open_redis_stream(opening)


def _slack(opening: Opening) -> Opened:
    from dispatch.destinations.slack import open_slack

    return open_slack(opening)


def _mail(opening: Opening) -> Opened:
    from dispatch.destinations.mailopening import open_mail

    return open_mail(opening)


def _notify(opening: Opening) -> Opened:
    from dispatch.destinations.notify import open_notify

    return open_notify(opening)


#: By scheme. A plugin can't take one of these over.
KINDS: Final[Mapping[str, OpenKind]] = MappingProxyType(
    {
        "http": _webhook,
        "https": _webhook,
        "file": _file,
        "stdout": _stdout,
        "discard": _discard,
        "pulsar": _topic,
        "redis": _redis,
        "rediss": _redis,
        "slack": _slack,
        "smtp": _mail,
        "smtps": _mail,
        "apprise": _notify,
    }
)
