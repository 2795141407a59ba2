"""`keylane destination resume`: attempts go on at a destination that wanted nothing more."""

from __future__ import annotations

from dispatch.control import ENABLED
from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.names import control_topic
from keylane.settings import Settings
from keylane.tabletopic import ensure_table


async def resume(name: str, settings: Settings, broker: Broker) -> bool:
    """Tell all its workers, those too that start later; returns whether it was disabled.

    The broker has confirmed it when this returns. Raises `BrokerError`.
    """
    topic = control_topic(settings.topic)
    async with PulsarAdmin(settings.pulsar) as admin:
        await ensure_table(admin, topic)
    kept: dict[str, bytes] = {}
    table = await broker.table(topic, kept.__setitem__)
    try:
        was_disabled = bool(kept.get(name))
        if was_disabled:
            await table.put(name, ENABLED)
    finally:
        await table.close()
    return was_disabled
