from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from operate.broker.ports import HOST, choose_port
from tests.foreground import Foreground

pytestmark = [pytest.mark.timeout(240)]

DONE = 0
INTERRUPTED = 130
UNAVAILABLE = 69
CONFIGURATION = 78

Start: TypeAlias = Callable[..., "Up"]


class Up(Foreground):
    """`keylane up` with its ingest on `port`."""

    port = 0

    def wait_until_up(self) -> None:
        self.wait_for("Ctrl-C stops everything, in order")

    def post(self, payload: object) -> str:
        """Send one event of user-1; returns its id."""
        body = json.dumps([{"UserID": "user-1", "Payload": payload}])
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/events", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
        assert answer.status == 202, told
        return str(told["events"][0]["id"])

    def is_taken(self, payload: object) -> bool:
        """Whether an event is accepted now; for the moments in which the broker is away."""
        try:
            self.post(payload)
        except (AssertionError, OSError):
            return False
        return True

    def payloads_in(self, file: Path) -> list[object]:
        """In the order of their first delivery; a killed part may bring some of them twice."""
        text = file.read_text() if file.exists() else ""
        seen: list[object] = []
        for line in text.splitlines():
            payload = json.loads(line)["payload"]
            if payload not in seen:
                seen.append(payload)
        return seen


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def run(*arguments: str, **env: str) -> Up:
            port = choose_port(0, "")
            command = ("up", "--port", str(port), *arguments)
            up = stack.enter_context(Up(command, tmp_path, env))
            up.port = port
            return up

        yield run


@pytest.mark.long
@pytest.mark.real_broker
def test_the_stack_delivers_heals_itself_and_drains_at_ctrl_c(start: Start, tmp_path: Path) -> None:
    up = start("--broker", "pulsar")
    up.wait_until_up()
    if "using the broker at" in up.stderr:
        pytest.fail("a broker answers at the default URLs: stop it, or none is started here")
    file = tmp_path / "keylane-events.jsonl"

    first = up.post({"n": 1})
    up.until(lambda: first in up.stdout, "printed by the sample webhook")
    up.until(lambda: up.payloads_in(file) == [{"n": 1}], "delivered to the sample file")
    assert f"curl http://127.0.0.1:{up.port}/events" in up.stderr

    (dispatcher,) = up.processes("operate dispatch file")
    os.kill(dispatcher, signal.SIGKILL)
    up.wait_for("dispatch file ended by itself by SIGKILL; starting it again in 1 s")
    up.post({"n": 2})
    up.until(lambda: up.payloads_in(file) == [{"n": 1}, {"n": 2}], "delivered after its restart")

    (broker,) = up.processes("org.apache.pulsar.PulsarStandaloneStarter")
    os.kill(broker, signal.SIGKILL)
    up.wait_for("the broker ended by itself; starting it again")
    up.until(lambda: up.is_taken({"n": 3}), "events are taken again")
    up.until(lambda: {"n": 3} in up.payloads_in(file), "delivered after the broker's restart")

    up.send(signal.SIGINT, to_group=True)
    assert up.wait() == DONE, up.stderr
    lines = up.stderr.splitlines()
    order = ["ingest.stopped", "worker.draining", "worker.stopped", "stopping the broker"]
    places = [min(i for i, line in enumerate(lines) if words in line) for words in order]
    assert places == sorted(places)
    assert up.left_processes() == []
    assert up.left_folders() == []

    # The topic is still there, with how far each destination has come: new events come behind.
    again = start("--broker", "pulsar")
    again.wait_until_up()
    assert "created" not in again.stderr
    lines_before = len(file.read_text().splitlines())
    again.post({"n": 4})
    again.until(lambda: up.payloads_in(file)[-1:] == [{"n": 4}], "delivered by the next run")
    assert len(file.read_text().splitlines()) == lines_before + 1

    again.send(signal.SIGKILL)
    again.wait()
    again.wait_until_nothing_is_left()


@pytest.mark.long
@pytest.mark.real_broker
def test_a_second_ctrl_c_aborts_a_drain_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    # A receiver that never answers, so that the drain would take its 30 s.
    receiver = Foreground(("receive", "--port", "0", "--delay-ms", "600000"), tmp_path, {})
    with receiver:
        url = receiver.wait_for("http://").split(";")[0]
        (tmp_path / "keylane.toml").write_text(
            f'[destinations.slow]\nto = "{url}"\n[dispatch]\ntimeout_s = 60\ndrain_timeout_s = 60\n'
        )
        up = start("--broker", "pulsar")
        up.wait_until_up()
        assert "dispatch  slow -> http://" in up.stderr
        up.post("stuck")
        (port,) = (line.split(":")[-1] for line in up.stderr.splitlines() if "slow ->" in line)
        up.until(lambda: in_flight(int(port.removesuffix("/metrics"))) == 1, "the attempt runs")

        up.send(signal.SIGINT, to_group=True)
        up.wait_for("worker.draining")
        up.send(signal.SIGINT, to_group=True)

        assert up.wait() == INTERRUPTED, up.stderr
        assert up.left_folders() == []
        assert [c for c in up.left_processes() if "receive" not in c] == []


@pytest.mark.long
@pytest.mark.real_broker
def test_an_interrupted_start_leaves_nothing(start: Start) -> None:
    up = start("--broker", "pulsar")
    up.wait_for("ingest.started")

    up.send(signal.SIGTERM)

    assert up.wait() == DONE
    assert up.left_processes() == []


def test_in_memory_the_same_stack_runs_in_one_process(start: Start, tmp_path: Path) -> None:
    up = start("--broker", "memory")
    up.wait_until_up()
    assert "NOTHING IS DURABLE" in up.stderr

    event = up.post({"n": 1})
    up.until(lambda: event in up.stdout, "printed by the sample webhook")
    up.until(lambda: up.payloads_in(tmp_path / "keylane-events.jsonl") == [{"n": 1}], "in the file")

    up.send(signal.SIGINT, to_group=True)
    assert up.wait() == DONE, up.stderr


def test_settings_are_read_again_in_memory(start: Start, tmp_path: Path) -> None:
    def configure(*lines: str) -> None:
        (tmp_path / "keylane.toml").write_text("\n".join(lines))

    configure("[destinations.crm]", 'to = "file:before.jsonl"')
    up = start("--broker", "memory")
    up.wait_until_up()
    up.post({"n": 1})
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    up.until(lambda: up.payloads_in(before) == [{"n": 1}], "delivered to the first address")

    configure("[destinations.crm]", 'to = "file:after.jsonl"', "jiter = 1")
    up.send(signal.SIGHUP)
    up.wait_for("the settings from before go on: keylane.toml: destinations.crm.jiter")

    configure(
        "[destinations.crm]", 'to = "file:after.jsonl"', "[destinations.new]", 'to = "file:x"'
    )
    up.send(signal.SIGHUP)
    up.wait_for("destinations.new takes effect after a restart")
    up.wait_for("configuration.reloaded")
    up.post({"n": 2})
    up.until(lambda: up.payloads_in(after) == [{"n": 2}], "delivered to the second address")
    assert up.payloads_in(before) == [{"n": 1}]

    up.send(signal.SIGINT, to_group=True)
    assert up.wait() == DONE, up.stderr


@pytest.mark.long
@pytest.mark.real_broker
def test_each_process_reads_settings_again_and_a_killed_one_starts_with_those_of_now(
    start: Start, tmp_path: Path
) -> None:
    def configure(crm: str, audit: str) -> None:
        (tmp_path / "keylane.toml").write_text(
            f'[destinations.crm]\nto = "file:{crm}"\nworkers = 2\n'
            f'[destinations.audit]\nto = "file:{audit}"\n'
        )

    configure("crm-1", "audit-1")
    up = start("--broker", "pulsar")
    up.wait_until_up()
    up.post({"n": 1})
    files = [tmp_path / name for name in ("crm-1", "audit-1", "crm-2", "audit-2")]
    up.until(lambda: all(map(up.payloads_in, files[:2])), "delivered at first")

    configure("crm-2", "audit-2")
    up.send(signal.SIGHUP)
    up.until(lambda: up.stderr.count("configuration.reloaded") >= 3, "read by all three workers")
    up.post({"n": 2})
    up.until(lambda: all(map(up.payloads_in, files[2:])), "delivered afterwards")
    assert [up.payloads_in(file) for file in files[2:]] == [[{"n": 2}], [{"n": 2}]]

    (audit,) = up.processes("operate dispatch audit")
    os.kill(audit, signal.SIGKILL)
    up.wait_for("dispatch audit ended by itself by SIGKILL; starting it again in 1 s")
    up.post({"n": 3})
    up.until(lambda: {"n": 3} in up.payloads_in(files[3]), "delivered after its restart")
    assert [up.payloads_in(file) for file in files[:2]] == [[{"n": 1}], [{"n": 1}]]

    up.send(signal.SIGINT, to_group=True)
    assert up.wait() == DONE, up.stderr
    assert up.left_processes() == []


def test_a_port_of_ingest_that_is_taken_is_refused_before_anything_is_started(
    start: Start,
) -> None:
    first = start("--broker", "memory")
    first.wait_until_up()

    second = start("--broker", "pulsar", "--port", str(first.port))

    assert second.wait() == CONFIGURATION
    assert f"Port {first.port} is in use" in " ".join(second.stderr.split())
    assert "Starting" not in second.stderr


def test_a_configured_broker_that_does_not_answer_is_not_replaced_by_another(
    start: Start,
) -> None:
    nobody = str(choose_port(0, ""))

    up = start(
        "--service-url", f"pulsar://{HOST}:{nobody}", "--admin-url", f"http://{HOST}:{nobody}"
    )

    assert up.wait() == UNAVAILABLE
    assert "No broker answers" in up.stderr
    assert "Starting" not in up.stderr


def in_flight(admin_port: int) -> int:
    connection = http.client.HTTPConnection(HOST, admin_port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    wanted = 'keylane_events{destination="slow",state="in_flight"} '
    return int(float(text.split(wanted)[1].split()[0]))
