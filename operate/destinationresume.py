"""`keylane destination resume`: attempts go on at a destination that wanted nothing more."""

from __future__ import annotations

from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.controlrecord import About, Key
from keylane.settings import Settings
from operate.controlsession import ControlSession
from operate.overseeing.pausing import take_back


async def resume(name: str, settings: Settings, broker: Broker) -> bool:
    """Tell all its workers, those too that start later; returns whether it was disabled.

    The broker has confirmed it when this returns. Raises `BrokerError`.
    """
    async with (
        PulsarAdmin(settings.pulsar) as admin,
        ControlSession(settings, admin, broker) as control,
    ):
        return await take_back(control, Key(name, About.DESTINATION))
