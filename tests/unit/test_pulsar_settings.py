"""How the broker is reached: what goes together, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keylane.credentials import credentials_of
from keylane.errors import BrokerUnavailable, ConfigurationError
from keylane.settings import PulsarSettings, Settings, effective_settings, load_settings

ISSUED = {
    "oauth2_issuer_url": "https://issuer.example/realm",
    "oauth2_client_id": "keylane",
    "oauth2_client_secret": "hunter2",
}


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("hunter2\n")
    return path


def load(**pulsar: Any) -> Settings:
    return load_settings(None, {"pulsar": pulsar})


def refusal(**pulsar: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**pulsar)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def test_nothing_has_to_be_set() -> None:
    assert credentials_of(PulsarSettings()) is None


def test_each_way_to_authenticate_can_be_used_alone(a_file: Path) -> None:
    load(token="hunter2")
    load(token_file=a_file)
    load(**ISSUED)
    load(tls_certificate=a_file, tls_key=a_file)


def test_a_certificate_can_be_shown_beside_a_token(a_file: Path) -> None:
    load(token="hunter2", tls_certificate=a_file, tls_key=a_file)


def test_two_sources_of_a_token_exclude_each_other(a_file: Path) -> None:
    assert "pulsar.token is set too" in refusal(token="hunter2", token_file=a_file)
    assert "--oauth2-issuer-url" in refusal(token="hunter2", **ISSUED)
    assert "pulsar.token_file is set too" in refusal(token_file=a_file, **ISSUED)


def test_what_was_set_is_named_by_its_variable(
    a_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYLANE_PULSAR__TOKEN", "hunter2")
    monkeypatch.setenv("KEYLANE_PULSAR__TOKEN_FILE", str(a_file))

    assert refusal().startswith(f"KEYLANE_PULSAR__TOKEN_FILE={a_file}: pulsar.token is set too")


@pytest.mark.parametrize("missing", ["oauth2_client_id", "oauth2_client_secret"])
def test_an_issuer_needs_to_know_us(missing: str) -> None:
    said = refusal(**{k: v for k, v in ISSUED.items() if k != missing})

    assert f"KEYLANE_PULSAR__{missing.upper()}" in said
    assert "is needed with pulsar.oauth2_issuer_url" in said


@pytest.mark.parametrize("alone", ["oauth2_client_id", "oauth2_client_secret"])
def test_who_names_himself_names_an_issuer(alone: str) -> None:
    assert "needs pulsar.oauth2_issuer_url" in refusal(**{alone: ISSUED[alone]})


def test_a_certificate_and_its_key_go_together(a_file: Path) -> None:
    for alone in ("tls_certificate", "tls_key"):
        assert "set both or neither" in refusal(**{alone: a_file})


@pytest.mark.parametrize("name", ["token_file", "tls_trust_certs", "tls_certificate"])
def test_a_file_that_is_not_there_or_empty_is_refused(name: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()

    assert "can't be read (No such file or directory)" in refusal(**{name: tmp_path / "no"})
    assert "can't be read (Is a directory)" in refusal(**{name: tmp_path})
    assert "is empty" in refusal(**{name: empty})


def test_an_unknown_compression_is_refused() -> None:
    assert "'zstd' or 'snappy'" in refusal(compression="gzip")


def test_no_secret_is_shown(a_file: Path) -> None:
    issued = load(**(ISSUED | {"oauth2_issuer_url": "https://me:hunter2@issuer.example/"}))

    for settings in (load(token="hunter2"), load(token_file=a_file), issued):
        assert "hunter2" not in str(effective_settings(settings))
        assert "hunter2" not in repr(settings.pulsar).replace("me:hunter2@", "")


def test_a_token_is_read_anew_each_time(a_file: Path) -> None:
    credentials = credentials_of(PulsarSettings(token_file=a_file))
    assert credentials is not None
    assert credentials.token() == "hunter2"

    a_file.write_text("next")
    assert credentials.token() == "next"


def test_a_token_file_that_went_away_or_empty_is_told(a_file: Path) -> None:
    credentials = credentials_of(PulsarSettings(token_file=a_file))
    assert credentials is not None

    a_file.write_text(" \n")
    with pytest.raises(BrokerUnavailable, match="no token in"):
        credentials.token()
    a_file.unlink()
    with pytest.raises(BrokerUnavailable, match="KEYLANE_PULSAR__TOKEN_FILE"):
        credentials.token()
