"""How topics, subscriptions and dead-letter topics are called."""

from __future__ import annotations

import re
from typing import Final

from keylane.errors import ConfigurationError

#: The subscription on a dead-letter topic, without which it would keep nothing.
DEAD_LETTER_SUBSCRIPTION: Final = "keylane"

#: Stands for the number of the partition where a topic has none.
WHOLE: Final = -1

_TOPIC = re.compile(r"(?:persistent://)?(?:([\w.=:-]+)/([\w.=:-]+)/)?([\w.=:-]+)")
_DESTINATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def full_topic(topic: str) -> str:
    """`user-events` becomes `persistent://public/default/user-events`."""
    found = _TOPIC.fullmatch(topic)
    if not found:
        raise ConfigurationError(
            f"'{topic}' is no topic: write NAME, TENANT/NAMESPACE/NAME or "
            "persistent://TENANT/NAMESPACE/NAME"
        )
    tenant, namespace, name = found.groups()
    return f"persistent://{tenant or 'public'}/{namespace or 'default'}/{name}"


def partition_topic(topic: str, partition: int) -> str:
    """The name under which Pulsar stores one partition; `WHOLE` is a topic without any."""
    if partition == WHOLE:
        return full_topic(topic)
    return f"{full_topic(topic)}-partition-{partition}"


def subscription_name(destination: str) -> str:
    """A destination's subscription has its name; raises `ConfigurationError` on an unfit one."""
    if not _DESTINATION.fullmatch(destination):
        raise ConfigurationError(
            f"'{destination}' can't name a destination: use 1 to 64 letters, digits, '.', '_' "
            "or '-', beginning with a letter or a digit"
        )
    return destination


def channel_topic(name: str) -> str:
    """What is said on a channel is stored nowhere: `persistent://...` becomes non-persistent."""
    return f"non-{full_topic(name)}"


def handover_channel(topic: str, destination: str) -> str:
    """Where a destination's workers tell each other about events that change hands."""
    return f"{full_topic(topic)}-{subscription_name(destination)}-handover"


def dead_letter_topic(topic: str, destination: str) -> str:
    """Pulsar's native name, so that its own tools find it."""
    return f"{full_topic(topic)}-{subscription_name(destination)}-DLQ"


def control_topic(topic: str) -> str:
    """What people, or destinations themselves, have said of the destinations: a table."""
    return f"{full_topic(topic)}-control"


def deliveries_topic(topic: str, destination: str) -> str:
    """Where a destination's workers remember what was delivered."""
    return f"{full_topic(topic)}-{subscription_name(destination)}-deliveries"


def redrive_topic(topic: str, destination: str) -> str:
    """Where events lie that one destination is to get once more: without partitions."""
    return f"{full_topic(topic)}-{subscription_name(destination)}-redrive"


def questions_channel(topic: str) -> str:
    """Where people ask running workers, and are answered."""
    return f"{full_topic(topic)}-questions"
