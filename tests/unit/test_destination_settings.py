"""What can be said of destinations: where, how, with which secrets, and what is refused."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.settings import (
    Settings,
    Source,
    all_settings,
    effective_settings,
    load_settings,
    revealed_settings,
)
from keylane.sources import WrongSettings
from operate.show import as_toml

#: With all types of settings that there are.
WHOLE = """
[destinations.shop]
to = "https://shop.example/hook"
secret = "env:SHOP_SECRET"
workers = 2
rate_limit = 12.5
http = { retry = [404, 409], allow = ["10.0.0.0/8"], headers = { "X-Key" = "file:key" } }
breaker = { enabled = false }

[destinations."team.chat".channels.slack]
to = "slack:"
slack = { webhook = "env:SHOP_SECRET" }
message = { template = "a\\n{{ b }}" }

[destinations."team.chat".channels.page]
to = "apprise:"
urls = ["env:SHOP_SECRET", "tgram://hunter2/chat"]

[destinations.own]
to = "ours:x"
options = { token = "hunter2", size = 3, nested = [{ a = "hunter2", at = 2026-01-31 }] }
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("KEYLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_SECRET", "hunter2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("hunter2\n")


def load(toml: str) -> Settings:
    Path("keylane.toml").write_text(toml, encoding="utf-8")
    return load_settings()


def loaded(toml: str = 'to = "http://h"') -> DestinationSettings:
    return load(f"[destinations.crm]\n{toml}").destinations["crm"]


def refused(toml: str) -> list[str]:
    with pytest.raises(WrongSettings) as caught:
        load(toml)
    assert "hunter2" not in str(caught.value)
    return caught.value.problems


def test_secrets_are_looked_up_where_they_are_said_to_be() -> None:
    shop = load(WHOLE).destinations["shop"]

    assert shop.secret is not None
    assert shop.secret.get_secret_value() == "hunter2"
    assert shop.http.headers["X-Key"].get_secret_value() == "hunter2"


def test_what_is_shown_has_no_secret_and_only_what_is_set() -> None:
    shown = effective_settings(load(WHOLE))["destinations"]

    assert "hunter2" not in str(shown)
    assert shown["shop"] == {
        "to": "https://shop.example/hook",
        "secret": "***",
        "http": {"retry": [404, 409], "headers": {"X-Key": "***"}, "allow": ["10.0.0.0/8"]},
        "workers": 2,
        "rate_limit": 12.5,
        "breaker": {"enabled": False},
    }
    assert shown["team.chat"]["channels"]["page"] == {"to": "apprise:", "urls": ["***", "***"]}
    assert shown["own"]["options"]["size"] == 3


def test_what_is_shown_is_toml_that_says_the_same() -> None:
    shown = effective_settings(load(WHOLE))

    read = tomllib.loads(as_toml(shown))

    assert read["destinations"] == shown["destinations"]


def test_what_is_written_for_processes_is_read_back_as_it_was() -> None:
    settings = load(WHOLE)

    assert load(as_toml(revealed_settings(settings))) == settings


def test_a_mistake_in_a_nested_section_is_named_with_the_nearest_name() -> None:
    (told,) = refused('[destinations.crm]\nto = "x:"\nhttp = { read_timout_s = 1 }')

    assert told.startswith("keylane.toml: destinations.crm.http.read_timout_s is no setting")
    assert told.endswith("; did you mean read_timeout_s?")


def test_everything_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__HTTP__ALOW", "[]")
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__JITTER", "2")

    told = refused(
        """
        [destinations.crm]
        secret = "env:NOT_SET"
        http = { retry = [200], allow = ["h/8"], bearer = "file:none" }
        message = { template = "x", template_file = "y" }
        [destinations.chat.channels.one]
        mesage = {}
        [destinations.chat.channels."b b"]
        to = "slack:"
        [destinations.both]
        to = "x:"
        channels.one.to = "y:"
        [destinations.steep]
        to = "x:"
        backoff_min_s = 2
        backoff_max_s = 1
        """
    )

    file, crm = "keylane.toml: destinations", "KEYLANE_DESTINATIONS__CRM"
    assert sorted(told) == sorted(
        [
            f"{file}.crm lacks 'to'",
            f"{file}.crm.secret=***: the variable NOT_SET is not set, or empty",
            f"{file}.crm.http.bearer=***: none can't be read (No such file or directory)",
            f"{file}.crm.http.retry.0=200: should be greater than or equal to 300",
            f"{file}.crm.http.allow.0=h/8: should be an address or a network like 10.0.0.0/8",
            f"{file}.crm.message.template_file=y: should have template or template_file, not both",
            f"{file}.chat.channels.one.mesage is no setting; did you mean message?",
            f"{file}.chat.channels.b b: should match pattern '^[A-Za-z0-9._-]{{1,64}}$'",
            f"{file}.both should have to or channels, not both",
            f"{file}.steep.backoff_max_s=1: should not be below backoff_min_s (2)",
            f"{crm}__HTTP__ALOW is no setting; did you mean {crm}__HTTP__ALLOW?",
            f"{crm}__JITTER=2: should be less than or equal to 1",
        ]
    )


def test_a_channel_lacks_its_address_by_its_own_name() -> None:
    assert refused("[destinations.chat.channels.one]\nurls = []") == [
        "keylane.toml: destinations.chat.channels.one lacks 'to'"
    ]


def test_a_destinations_own_backoff_has_to_fit_that_of_all() -> None:
    (told,) = refused('[destinations.crm]\nto = "x:"\nbackoff_min_s = 301')

    assert "'crm' would have a backoff_max_s (300) below its backoff_min_s (301)" in told


@pytest.mark.parametrize(
    ("variable", "value", "path", "wanted"),
    [
        ("CRM__WORKERS", "3", ("workers",), 3),
        ("CRM__RATE_LIMIT", "1.5", ("rate_limit",), 1.5),
        ("CRM__HTTP__RETRY", "[404]", ("http", "retry"), (404,)),
        ("CRM__HTTP__ALLOW", '["10.0.0.0/8"]', ("http", "allow"), ("10.0.0.0/8",)),
        ("CRM__HTTP__CA_FILE", "123", ("http", "ca_file"), Path("123")),
        ("CRM__BREAKER__ENABLED", "false", ("breaker", "enabled"), False),
        ("CRM__MESSAGE__SUBJECT", "[x]", ("message", "subject"), "[x]"),
        ("CRM__OPTIONS", '{"a": [1]}', ("options",), {"a": [1]}),
        ("CRM__HTTP", '{"retry": [404]}', ("http", "retry"), (404,)),
    ],
)
def test_a_variable_gives_a_setting_of_any_type(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: tuple[str, ...], wanted: Any
) -> None:
    monkeypatch.setenv(f"KEYLANE_DESTINATIONS__{variable}", value)

    found: Any = loaded()
    for part in path:
        found = getattr(found, part)
    assert found == wanted


@pytest.mark.parametrize("secret", ["12345678", "1e5", "true", "null", "[x]", '{"a": 1}', '"q"'])
def test_a_secret_in_a_variable_is_never_read_as_json(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__SECRET", secret)

    found = loaded().secret

    assert found is not None
    assert found.get_secret_value() == secret


def test_secrets_in_structures_come_from_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__URLS", '["env:SHOP_SECRET"]')
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__HTTP__HEADERS", '{"X-Key": "file:key"}')

    found = loaded()

    assert [url.get_secret_value() for url in found.urls] == ["hunter2"]
    assert found.http.headers["X-Key"].get_secret_value() == "hunter2"


def test_a_variable_means_the_name_that_the_file_spells_with_other_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEYLANE_DESTINATIONS__MY_SHOP__CHANNELS__OUR_CHAT__SECRET", "hunter2")

    shop = load('[destinations.My-Shop.channels."our.Chat"]\nto = "x:"').destinations["My-Shop"]

    assert shop.channels["our.Chat"].secret is not None


def test_names_that_a_variable_can_not_tell_apart_are_not_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEYLANE_DESTINATIONS__A_B__SECRET", "hunter2")

    (told,) = refused('destinations = { "a-b" = { to = "x:" }, "a.b" = { to = "x:" } }')

    assert told == "KEYLANE_DESTINATIONS__A_B lacks 'to'"


def test_a_setting_that_holds_secrets_is_known_as_one() -> None:
    found = {path[2:] for path, setting in all_settings().items() if setting.is_secret}

    assert {("secret",), ("http", "headers"), ("http", "proxy"), ("urls",)} <= found
    assert ("http", "allow") not in found


def test_a_source_can_be_read_raw_with_its_references() -> None:
    load(WHOLE)
    source = Source(None, {"destinations": {"own": {"to": "other:"}}})

    raw = source.raw()["destinations"]

    assert raw["shop"]["secret"] == "env:SHOP_SECRET"
    assert raw["own"]["to"] == "other:"


def test_mistakes_of_one_kind_are_told_in_one_line_or_in_many() -> None:
    with pytest.raises(ConfigurationError, match=r"^one\. Nothing was started\.$"):
        raise WrongSettings(["one"])
    with pytest.raises(ConfigurationError, match=r"^2 settings are wrong; nothing was started\.\n"):
        raise WrongSettings(["one", "two"])
