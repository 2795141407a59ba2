from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from keylane.destinationsettings import DestinationSettings
from keylane.errors import ConfigurationError
from keylane.settings import (
    Settings,
    all_settings,
    effective_settings,
    load_settings,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("KEYLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _refused(config: Path | None = None, overrides: dict[str, object] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config, overrides)
    return str(caught.value)


def test_without_any_source_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()

    assert settings == Settings()
    assert settings.topic == "user-events"
    assert settings.pulsar.service_url == "pulsar://localhost:6650"
    assert settings.pulsar.admin_url == "http://localhost:8080"
    assert (settings.ingest.host, settings.ingest.port) == ("127.0.0.1", 8090)
    assert (settings.dispatch.max_attempts, settings.dispatch.max_age_s) == (8, 259_200)


def test_an_option_wins_over_the_environment_which_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("keylane.toml").write_text(
        "[dispatch]\nworkers = 2\nconcurrency = 2\nmax_attempts = 2\n", encoding="utf-8"
    )
    monkeypatch.setenv("KEYLANE_DISPATCH__CONCURRENCY", "3")
    monkeypatch.setenv("KEYLANE_DISPATCH__MAX_ATTEMPTS", "3")

    dispatch = load_settings(None, {"dispatch": {"max_attempts": 4, "workers": None}}).dispatch

    assert (dispatch.workers, dispatch.concurrency, dispatch.max_attempts) == (2, 3, 4)
    assert dispatch.timeout_s == 15


def test_a_destination_may_come_from_the_file_and_its_secret_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[destinations.crm]\nto = "http://localhost:1"\n', encoding="utf-8")
    monkeypatch.setenv("KEYLANE_DESTINATIONS__CRM__SECRET", "whsec_1")

    crm = load_settings(config).destinations["crm"]

    assert crm.to == "http://localhost:1"
    assert crm.secret is not None
    assert crm.secret.get_secret_value() == "whsec_1"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_TOPIC", "")

    assert load_settings().topic == "user-events"


def test_variables_of_the_test_suite_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_TEST_SERVICE_URL", "pulsar://x:1")

    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("KEYLANE_TOPIK", "KEYLANE_TOPIC"),
        # One underscore for two is the likeliest mistake.
        ("KEYLANE_DISPATCH_MAX_ATTEMPTS", "KEYLANE_DISPATCH__MAX_ATTEMPTS"),
        ("KEYLANE_DISPATCH__MAX_ATEMPTS", "KEYLANE_DISPATCH__MAX_ATTEMPTS"),
        ("KEYLANE_PULSAR__SERVICE_UR", "KEYLANE_PULSAR__SERVICE_URL"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, meant: str
) -> None:
    monkeypatch.setenv(variable, "1")

    assert f"{variable} is no setting; did you mean {meant}?" in _refused()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('topci = "x"', "keylane.toml: topci is no setting; did you mean topic?"),
        ("[dispach]\nworkers = 1", "keylane.toml: dispach is no setting; did you mean dispatch?"),
        ("[dispatch]\nworker = 1", "dispatch.worker is no setting; did you mean workers?"),
        ('[destinations.crm]\nto = "file:x"\nsecert = "y"', "did you mean secret?"),
        ('[destinations.crm]\nsecret = "y"', "keylane.toml: destinations.crm lacks 'to'"),
        ('[destinations."a b"]\nto = "file:x"', "'a b' can't name a destination"),
        ('topic = "a/b"', "keylane.toml: topic=a/b: 'a/b' is no topic"),
        ("topic = ", "keylane.toml is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_its_place(line: str, said: str) -> None:
    Path("keylane.toml").write_text(line, encoding="utf-8")

    assert said in _refused()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KEYLANE_DISPATCH__MAX_ATTEMPTS", "0", "should be greater than or equal to 1"),
        ("KEYLANE_DISPATCH__MAX_ATTEMPTS", "many", "should be a valid integer"),
        ("KEYLANE_DISPATCH__RELIABILITY", "101", "should be less than or equal to 100"),
        ("KEYLANE_DISPATCH__JITTER", "-1", "should be greater than or equal to 0"),
        ("KEYLANE_DISPATCH__TIMEOUT_S", "inf", "should be a finite number"),
        ("KEYLANE_INGEST__PORT", "65536", "should be less than or equal to 65535"),
        ("KEYLANE_LOG__FORMAT", "xml", "should be 'json', 'pretty' or 'auto'"),
        ("KEYLANE_PULSAR__SERVICE_URL", "http://x", "should match pattern"),
        ("KEYLANE_DISPATCH__BACKOFF_MAX_S", "0.5", "should not be below backoff_min_s (1)"),
        ("KEYLANE_INGEST__MAX_IN_FLIGHT", "10", "should not be below max_events (10000)"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)

    refused = _refused()

    assert refused.startswith(f"{variable}={value}: {said}")
    assert refused.endswith("Nothing was started.")


def test_a_bound_that_contradicts_a_default_says_that_it_is_the_default() -> None:
    refused = _refused(overrides={"dispatch": {"backoff_min_s": 900}})

    assert "KEYLANE_DISPATCH__BACKOFF_MAX_S (default)=300.0: should not be below" in refused


def test_a_section_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_DISPATCH", "{")

    assert "KEYLANE_DISPATCH=...: a whole section has to be a JSON object" in _refused()


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("keylane.toml").write_text("[ingest]\nport = -1\n", encoding="utf-8")
    monkeypatch.setenv("KEYLANE_TOPIK", "x")
    monkeypatch.setenv("KEYLANE_DISPATCH__WORKERS", "0")

    refused = _refused(overrides={"dispatch": {"max_age_s": -1}})

    assert refused.startswith("4 settings are wrong; nothing was started.")
    for place in (
        "KEYLANE_TOPIK",
        "KEYLANE_DISPATCH__WORKERS=0",
        "--max-age=-1",
        "keylane.toml: ingest.port=-1",
    ):
        assert place in refused


def test_a_file_that_was_asked_for_has_to_be_there() -> None:
    assert "nowhere.toml can't be read" in _refused(Path("nowhere.toml"))


def test_an_error_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYLANE_PULSAR__ADMIN_URL", "ftp://me:hunter2@x")

    assert "hunter2" not in _refused()


def test_settings_do_not_change_and_pass_to_another_process() -> None:
    settings = Settings()

    with pytest.raises(ValidationError):
        settings.dispatch.workers = 2  # type: ignore[misc]  # the point
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@host/x?token=hunter2", "https://me:***@host/x?token=***"),
        ("https://hunter2@host/x", "https://***@host/x"),
        ("tgram://hunter2/chat", "tgram://***"),
        ("file:out.jsonl", "file:out.jsonl"),
        ("http://localhost:9000/@x", "http://localhost:9000/@x"),
    ],
)
def test_the_effective_settings_show_no_secret(
    monkeypatch: pytest.MonkeyPatch, url: str, shown: str
) -> None:
    monkeypatch.setenv("KEYLANE_PULSAR__TOKEN", "hunter2")
    destination = {"to": url, "secret": "hunter2"}

    effective = effective_settings(load_settings(None, {"destinations": {"crm": destination}}))

    assert effective["destinations"]["crm"] == {"to": shown, "secret": "***"}
    assert effective["pulsar"]["token"] == "***"
    assert "hunter2" not in str(effective)


def test_every_setting_is_described() -> None:
    undescribed = [s.variable for s in all_settings().values() if not s.field.description]

    assert undescribed == []
    assert set(DestinationSettings.model_fields) == {
        path[2] for path in all_settings() if path[0] == "destinations"
    }


def test_every_duration_says_that_it_is_in_seconds() -> None:
    durations = [s for s in all_settings().values() if s.path[-1].endswith("_s")]

    assert durations
    assert [s.variable for s in durations if "econds" not in str(s.field.description)] == []
