"""Whom a session with the broker trusts, and what that costs where there is no TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from keylane.admin import PulsarAdmin
from keylane.errors import ConfigurationError
from keylane.pulsar import PulsarBroker
from keylane.settings import PulsarSettings
from keylane.tls import broker_context

TLS = {"service_url": "pulsar+ssl://broker:6651", "admin_url": "https://broker:8443"}


async def test_a_session_does_not_read_all_public_authorities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("they are read")

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", read)
    settings = PulsarSettings()
    async with PulsarAdmin(settings):
        await PulsarBroker.of(settings).close()


def test_without_settings_the_usual_authorities_and_names_count() -> None:
    assert broker_context(PulsarSettings(**TLS)) is True


def test_names_that_need_not_fit_are_still_vouched_for() -> None:
    context = broker_context(PulsarSettings(**TLS, tls_validate_hostname=False))
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize("url", [TLS, {}])
def test_a_file_without_certificates_is_told_with_tls_and_without(
    url: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "trusted.pem"
    file.write_text("nothing of the kind")
    with pytest.raises(ConfigurationError, match="holds no certificates"):
        broker_context(PulsarSettings(**url, tls_trust_certs=file))
