"""Whom we trust over TLS and what we show, as the settings say."""

from __future__ import annotations

import ssl
from typing import Literal, TypeAlias

from keylane.errors import ConfigurationError
from keylane.settings import PulsarSettings

#: True is what aiohttp and asyncio go by themselves: public authorities, and the host's name.
BrokerTrust: TypeAlias = ssl.SSLContext | Literal[True]


def broker_context(pulsar: PulsarSettings) -> BrokerTrust:
    """How the broker is trusted and what it is shown; raises `ConfigurationError`.

    Where no setting asks for anything else it is True: to read all public authorities takes tens of
    milliseconds, at each session with a broker, and most have no TLS at all.
    """
    if _is_usual(pulsar):
        return True
    context = _trusting(pulsar)
    context.check_hostname = pulsar.tls_validate_hostname
    if pulsar.tls_certificate is not None:
        try:
            # Never asks: a password would be read from the terminal.
            context.load_cert_chain(pulsar.tls_certificate, pulsar.tls_key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(
                f"KEYLANE_PULSAR__TLS_CERTIFICATE={pulsar.tls_certificate} and "
                f"KEYLANE_PULSAR__TLS_KEY={pulsar.tls_key} are no certificate with its key in PEM, "
                "or the key has a password. Nothing was started."
            ) from error
    return context


def issuer_context(pulsar: PulsarSettings) -> ssl.SSLContext:
    """Trust in an issuer of tokens: public authorities, and the broker's; host names always count.

    Raises `ConfigurationError`.
    """
    context = _trusting(pulsar)
    if pulsar.tls_trust_certs is not None:
        context.load_default_certs()
    return context


def _is_usual(pulsar: PulsarSettings) -> bool:
    of_its_own = (pulsar.tls_trust_certs, pulsar.tls_certificate)
    return pulsar.tls_validate_hostname and of_its_own == (None, None)


def _trusting(pulsar: PulsarSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=pulsar.tls_trust_certs)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(
            f"KEYLANE_PULSAR__TLS_TRUST_CERTS={pulsar.tls_trust_certs} holds no certificates in "
            "PEM. Nothing was started."
        ) from error
