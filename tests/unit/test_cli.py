from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from dispatch.plan import dispatch_of
from keylane.destinationsettings import DestinationSettings
from keylane.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    ContractError,
    KeylaneError,
    MissingPiece,
    PublishUnconfirmed,
)
from keylane.settings import Settings, Source
from operate.cli import app, main
from operate.destination import destination_of, on_destination
from operate.exits import exit_code_of
from operate.show import as_toml
from tests import forks
from tests.commandline import alone

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")

COMMANDS = [
    *("config", "topic setup", "ingest", "dispatch", "send", "demo", "up"),
    *("destination list", "destination test", "destination rotate-secret"),
    *("status", "lanes", "pause", "resume"),
    *("lane skip", "lane dead-letter", "lane retry-now"),
]


def in_a_process(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return forks.run(*arguments, env=os.environ | variables, within_s=15)


Keylane = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def keylane(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Keylane:
    """The command to its end, in the process of the test: what starts one takes a second."""

    def to_its_end(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["keylane", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, said.out, said.err)

    return to_its_end


def run(*arguments: str, **variables: str) -> str:
    done = CliRunner().invoke(app, arguments, env=variables, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_version_is_printed() -> None:
    assert run("--version").startswith("keylane ")


def test_the_help_names_every_command() -> None:
    told = run("--help")

    for command in [*COMMANDS, "broker"]:
        assert f" {command.split()[0]} " in told
    assert "Exit codes" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_two_examples_and_names_its_variables(command: str) -> None:
    # Wide, so that nothing is broken into two lines.
    told = run(*command.split(), "--help", COLUMNS="300", TERMINAL_WIDTH="300")
    examples = told[told.index("Examples:") :]

    assert examples.count(f"keylane {command}") >= 1
    assert examples.count("keylane ") >= 2
    assert "KEYLANE_LOG__FORMAT" in told


def test_every_option_of_the_contract_is_there() -> None:
    told = run("dispatch", "--help", COLUMNS="300", TERMINAL_WIDTH="300")

    for option in (
        *("--to", "--workers", "--concurrency", "--max-attempts", "--max-age", "--backoff-min"),
        *("--backoff-max", "--backoff-multiplier", "--jitter", "--timeout", "--max-lane-events"),
        *("--admin-port", "--reliability", "--consumer-name", "--service-url", "--admin-url"),
        *("--topic", "--log-format", "--config"),
    ):
        assert f" {option} " in told
    assert "KEYLANE_DISPATCH__MAX_AGE_S" in told
    assert "default 259200" in told


def test_the_config_that_is_printed_can_be_read_back() -> None:
    Path("keylane.toml").write_text(
        '[destinations."a.b"]\nto = "https://me:hunter2@h/ü"\n', encoding="utf-8"
    )

    told = run("config", "--topic", "orders", KEYLANE_DISPATCH__WORKERS="3")

    read = tomllib.loads(told)
    assert read["topic"] == "orders"
    assert read["dispatch"]["workers"] == 3
    assert read["destinations"]["a.b"]["to"] == "https://me:***@h/ü"
    assert "# token is not set" in told


def test_the_config_is_json_if_that_is_asked_for() -> None:
    told = json.loads(run("config", "--json", KEYLANE_PULSAR__TOKEN="hunter2"))

    assert told["pulsar"]["token"] == "***"
    assert told["ingest"]["port"] == 8090


def test_toml_keeps_names_and_strings_apart_from_its_own_marks() -> None:
    tree = {"a": 'x"\n\\', "t": {"b c": {"d": 1.5, "e": True}, "f": {}}}

    assert tomllib.loads(as_toml(tree)) == {"a": 'x"\n\\', "t": {"b c": {"d": 1.5, "e": True}}}


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (["config"], {"KEYLANE_TOPIK": "x"}, 78, "did you mean KEYLANE_TOPIC?"),
        (["config", "--config", "no.toml"], {}, 78, "no.toml can't be read"),
        (["dispatch", "crm"], {}, 78, "Destination 'crm' has no address"),
        (["dispatch", "a b", "--to", "file:x"], {}, 78, "can't name a destination"),
        (["dispatch", "crm", "--max-attempts", "0", "--to", "file:x"], {}, 78, "--max-attempts=0"),
        (["topic", "setup", "--destination", "a b"], {}, 78, "can't name a destination"),
        (["send", "nowhere.jsonl"], {}, 78, "nowhere.jsonl can't be read"),
        (["nonsense"], {}, 2, "No such command"),
        (["dispatch"], {}, 2, "Missing argument"),
        (["dispatch", "crm", "--workers", "many"], {}, 2, "--workers"),
        # Refused before a broker is asked for anything.
        (["ingest", "--host", "0.0.0.0"], {}, 78, "keylane keys create"),
        (["ingest", "--host", "0.0.0.0", "--workers", "2"], {}, 78, "keylane keys create"),
        (["ingest", "--keys-file", "nowhere.json"], {}, 78, "nowhere.json"),
        (["ingest", "--idempotency-store", "mysql://here"], {}, 78, "--idempotency-store"),
    ],
)
def test_an_error_is_a_clear_message_and_an_exit_code(
    arguments: list[str], variables: dict[str, str], code: int, said: str, keylane: Keylane
) -> None:
    done = keylane(*arguments, **variables)

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if code == 78:
        assert done.stderr.startswith("keylane: ")
        assert done.stderr.count("\n") == 1


def test_a_broker_that_is_not_there_is_told_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{_free_port()}"

    done = in_a_process(
        *("topic", "setup", "--admin-url", url), KEYLANE_PULSAR__OPERATION_TIMEOUT_S="0.2"
    )

    assert done.returncode == 69
    assert url in done.stderr
    assert "KEYLANE_PULSAR__ADMIN_URL" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError(), 78),
        (BrokerUnavailable(), 69),
        (MissingPiece(), 69),
        (ContractError(), 65),
        (PublishUnconfirmed(), 75),
        (BrokerError(), 1),
        (KeylaneError(), 1),
        (KeyboardInterrupt(), 130),
        (ValueError(), 1),
    ],
)
def test_every_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def dispatched(*toml: str, to: str | None = None, **options: object) -> Settings:
    """What `keylane dispatch crm` with these options reads."""
    Path("keylane.toml").write_text("\n".join(toml), encoding="utf-8")
    source = on_destination(Source(None, {"dispatch": options}), {"name": "crm", "to": to})
    return source.load()


def test_an_address_on_the_command_line_wins_and_what_else_is_set_stays() -> None:
    crm = ("[destinations.crm]", 'to = "file:x"', 'secret = "s"', "[destinations.crm.http]")

    changed = dispatched(*crm, "retry = [404]", to="http://localhost:1").destinations["crm"]

    assert changed.to == "http://localhost:1"
    assert changed.secret == SecretStr("s")
    assert changed.http.retry == (404,)
    assert dispatched(*crm).destinations["crm"].to == "file:x"


def test_a_destination_may_lack_the_address_that_is_on_the_command_line() -> None:
    crm = dispatched("[destinations.crm]", "workers = 2", to="file:x").destinations["crm"]

    assert (crm.to, crm.workers) == ("file:x", 2)


def test_an_option_goes_before_the_destinations_own_setting_and_before_that_of_all() -> None:
    settings = dispatched(
        "[dispatch]",
        *("workers = 2", "max_attempts = 2", "jitter = 0.1", "timeout_s = 2"),
        "[destinations.crm]",
        *('to = "file:x"', "workers = 3", "max_attempts = 3", "jitter = 0.3"),
        workers=4,
        max_attempts=None,
        consumer_name="me",
    )

    options = dispatch_of(settings, "crm")

    assert (options.workers, options.max_attempts, options.jitter) == (4, 3, 0.3)
    assert (options.timeout_s, options.consumer_name, options.concurrency) == (2, "me", 64)


def test_options_that_only_together_fit_the_destinations_own_settings_are_taken() -> None:
    settings = dispatched(
        "[destinations.crm]",
        'to = "file:x"',
        "backoff_max_s = 100",
        backoff_min_s=500,
        backoff_max_s=900,
    )

    assert dispatch_of(settings, "crm").backoff_max_s == 900


def test_an_option_of_dispatch_that_is_wrong_is_told_once_and_by_its_own_name() -> None:
    with pytest.raises(ConfigurationError) as caught:
        dispatched("[destinations.crm]", 'to = "file:x"', workers=0)

    assert str(caught.value).startswith("--workers=0: should be greater than or equal to 1")


def test_a_mistyped_destination_is_refused_with_the_nearest_one() -> None:
    settings = Settings(destinations={"billing": DestinationSettings(to="file:x")})

    with pytest.raises(ConfigurationError, match=r"Did you mean billing\?"):
        destination_of(settings, "biling")
