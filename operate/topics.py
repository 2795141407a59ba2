"""`keylane topic setup`: topic, subscriptions, dead-letter topics and their policies."""

from __future__ import annotations

from collections.abc import Sequence

from keylane.admin import PulsarAdmin
from keylane.moment import EARLIEST
from keylane.names import subscription_name
from keylane.settings import Settings
from keylane.topics import ensure_destination, ensure_redrive, ensure_topic


async def setup(
    settings: Settings, partitions: int | None, destinations: Sequence[str]
) -> list[str]:
    """Create what is missing; returns what was changed, nothing on a second run."""
    # All names first: a wrong one must not leave half of it done.
    for name in destinations:
        subscription_name(name)
    patience_s = settings.pulsar.operation_timeout_s
    async with PulsarAdmin(settings.pulsar, deadline_s=patience_s) as admin:
        changes = await ensure_topic(admin, settings.topic, partitions)
        for name in destinations:
            own = settings.destinations.get(name)
            start = own.start if own else EARLIEST
            changes += await ensure_destination(admin, settings.topic, name, start)
            changes += await ensure_redrive(admin, settings.topic, name)
    return changes
