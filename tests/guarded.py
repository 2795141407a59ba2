"""A broker as Pulsar ships it, that asks everybody for a token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from keylane.admin import PulsarAdmin
from keylane.settings import PulsarSettings
from operate.broker.local import (
    HEALTHY_WITHIN_S,
    LocalBroker,
    LocalBrokerOptions,
    start_local_broker,
)
from tests.tokens import SECRET_KEY, token_for

ADMIN: Final = "admin"
_PROVIDER: Final = "org.apache.pulsar.broker.authentication.AuthenticationProviderToken"
_CLIENT_PLUGIN: Final = "org.apache.pulsar.client.impl.auth.AuthenticationToken"
#: Pulsar's own values where ours differ, and the format that later releases have by default.
AS_SHIPPED: Final = {
    "maxUnackedMessagesPerConsumer": "50000",
    "maxUnackedMessagesPerSubscription": "200000",
    "managedLedgerPersistIndividualAckAsLongArray": "true",
    "managedLedgerMaxUnackedRangesToPersist": "10000",
}


def admin_options(role: str = ADMIN) -> list[str]:
    """What `pulsar-admin` is told to be that role."""
    return ["--auth-plugin", _CLIENT_PLUGIN, "--auth-params", f"token:{token_for(role)}"]


def start_guarded(data_dir: Path, conf: Mapping[str, str]) -> LocalBroker:
    """Start it on that data; `conf` goes before `AS_SHIPPED`."""
    guarding = {
        "authenticationEnabled": "true",
        "authenticationProviders": _PROVIDER,
        "tokenSecretKey": SECRET_KEY,
        "authorizationEnabled": "true",
        "superUserRoles": ADMIN,
        "brokerClientAuthenticationPlugin": _CLIENT_PLUGIN,
        "brokerClientAuthenticationParameters": f"token:{token_for(ADMIN)}",
    }
    conf = {**AS_SHIPPED, **guarding, **conf}
    options = LocalBrokerOptions(data_dir=data_dir, extra_conf=conf, is_short_lived=True)
    with pytest.MonkeyPatch.context() as patched:
        # Else it would be asked by somebody whom it doesn't know.
        patched.setattr("operate.broker.local.LocalBroker.wait_healthy", _wait_healthy)
        return start_local_broker(options)


def access_as(broker: LocalBroker, role: str) -> PulsarSettings:
    return PulsarSettings(
        service_url=broker.service_url,
        admin_url=broker.admin_url,
        token=SecretStr(token_for(role)),
    )


def _wait_healthy(broker: LocalBroker, within_s: float = HEALTHY_WITHIN_S) -> None:
    async def wait() -> None:
        async with PulsarAdmin(access_as(broker, ADMIN), deadline_s=within_s) as admin:
            await admin.wait_until_healthy()
            await admin.partitions("anything")  # which takes that the namespace is there

    asyncio.run(wait())
