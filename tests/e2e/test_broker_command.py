from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from keylane.errors import BrokerUnavailable
from operate.broker import guardian
from operate.broker.config import FOR_A_SHORT_LIFE
from operate.broker.health import is_healthy
from operate.broker.java import find_java_home
from operate.broker.local import LocalBrokerOptions, start_local_broker
from operate.broker.places import cache_dir
from operate.broker.ports import HOST, choose_port
from operate.broker.process import ProcessIdentity
from tests import forks
from tests.brokers import BrokerAddress
from tests.waiting import until

# The first start on a machine downloads Pulsar.
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(300)]

UNAVAILABLE = 69
CONFIGURATION = 78

Broker: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """The command, with records of its own, so that it neither sees nor stops another's brokers."""

    # Java's own variable: half of the processor time until a broker is there.
    brief = {} if forks.FULL else {"JAVA_TOOL_OPTIONS": FOR_A_SHORT_LIFE}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")} | brief
        return forks.run("broker", *arguments, env=env)

    yield run
    run("stop", "--all")


def test_a_broker_starts_in_the_background_tells_its_state_and_stops(broker: Broker) -> None:
    told = started(broker("start", "--service-port", "0", "--admin-port", "0", "--json"))

    assert is_healthy(service_port(told), admin_port(told))
    assert running(broker) == {told["service_url"]}

    stopped = broker("stop", "--service-port", str(service_port(told)))
    assert stopped.returncode == 0
    assert f"port {service_port(told)} is stopped" in stopped.stdout
    assert ProcessIdentity.of(told["pid"]) is None
    assert not Path(told["data_dir"]).exists()
    assert broker("status").returncode == UNAVAILABLE
    again = broker("stop", "--all")
    assert (again.returncode, again.stdout) == (0, "No local broker is running.\n")


@pytest.mark.long
def test_brokers_start_beside_each_other_and_stop_one_by_one_or_all(broker: Broker) -> None:
    brokers = [
        started(broker("start", "--service-port", "0", "--admin-port", "0", "--json"))
        for _ in range(3)
    ]
    assert running(broker) == {told["service_url"] for told in brokers}

    broker("stop", "--service-port", str(service_port(brokers[0])))
    assert ProcessIdentity.of(brokers[0]["pid"]) is None
    assert all(is_healthy(service_port(told), admin_port(told)) for told in brokers[1:])

    assert broker("stop", "--all").returncode == 0
    assert [ProcessIdentity.of(told["pid"]) for told in brokers] == [None] * 3


@pytest.mark.long
def test_a_broker_runs_once_a_port_and_a_killed_one_is_no_obstacle_to_the_next(
    broker: Broker, tmp_path: Path
) -> None:
    port = str(choose_port(0, ""))
    arguments = ["start", "--service-port", port, "--admin-port", "0"]
    data = ["--data-dir", str(tmp_path / "my data")]
    first = started(broker(*arguments, *data, "--json"))
    create_topic(first, "kept")

    again = broker(*arguments)
    assert again.returncode == 0
    assert again.stdout.startswith("A local broker was running already.")
    assert f"export KEYLANE_PULSAR__SERVICE_URL={first['service_url']}" in again.stdout
    assert f"export KEYLANE_PULSAR__ADMIN_URL={first['admin_url']}" in again.stdout

    beside = broker("start", "--service-port", "0", "--admin-port", "0", *data)
    assert beside.returncode == CONFIGURATION
    assert f"in use by the local broker on port {port}" in words(beside.stderr)

    os.kill(first["pid"], signal.SIGKILL)
    assert broker("status").returncode == UNAVAILABLE
    second = started(broker(*arguments, *data, "--json"))
    assert second["pid"] != first["pid"]
    assert "persistent://public/default/kept" in topics(second)


def test_a_port_in_use_is_refused_before_anything_is_started(broker: Broker) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = str(listener.getsockname()[1])

        refused = broker("start", "--service-port", port, "--admin-port", "0")

    assert refused.returncode == CONFIGURATION
    assert f"Port {port} is in use" in words(refused.stderr)
    assert "Starting" not in refused.stderr
    assert broker("status").returncode == UNAVAILABLE


def test_a_broker_starts_with_the_classes_that_an_earlier_one_left(
    local_broker: BrokerAddress,
) -> None:
    if local_broker.pid is not None:  # else none of ours runs here
        java_home = find_java_home()
        # Java adds to an archive of its own classes, which the one of the wheel comes without.
        can_archive = (java_home / "lib" / "server" / "classes.jsa").exists()
        mapped = Path(f"/proc/{local_broker.pid}/maps").read_text()
        assert (str(cache_dir() / "classes") in mapped) is can_archive


@pytest.mark.long
def test_a_broker_comes_back_on_its_ports_and_serves_pulsars_own_tool() -> None:
    with start_local_broker(LocalBrokerOptions(is_short_lived=True)) as local:
        url = local.service_url
        local.kill()
        assert not local.is_healthy()

        local.restart()
        assert local.is_healthy()
        assert local.service_url == url

        listing = local.pulsar_admin("namespaces", "list", "public")
        assert listing.returncode == 0, listing.stderr
        assert listing.stdout.split() == ["public/default"]

        local.terminate()
        assert not local.run.is_alive()
        data = local.data.path
    assert not data.exists()


def test_a_start_that_fails_tells_the_reason_at_once_and_where_the_log_is() -> None:
    options = LocalBrokerOptions(extra_conf={"managedLedgerDefaultEnsembleSize": "not a number"})

    with pytest.raises(BrokerUnavailable, match=r"died while starting") as failure:
        start_local_broker(options)

    log = Path(str(failure.value).rsplit(": ", 1)[1])
    assert "not a number" in str(failure.value)
    assert "not a number" in log.read_text()
    shutil.rmtree(log.parent)


async def test_nothing_is_left_when_the_owner_of_a_broker_is_killed() -> None:
    owner_script = (
        "from operate.broker.local import start_local_broker as start\n"
        "local = start(launched=lambda l: print(l.run.identity.pid, l.data.path, flush=True))\n"
        "input()"
    )
    with talking([sys.executable, "-c", owner_script]) as owner:
        assert owner.stdout is not None
        pid, data = owner.stdout.readline().decode().split()
        identity = ProcessIdentity.of(int(pid))
        assert identity is not None

        owner.kill()

        await until(lambda: not identity.is_alive())
        await until(lambda: not Path(data).exists())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does this part")
async def test_nothing_is_left_when_the_guardian_is_killed() -> None:
    with guarded("sleep", "60") as (guard, child):
        guard.kill()

        await until(lambda: not child.is_alive())


async def test_a_guardian_ends_with_the_command_and_its_exit_code() -> None:
    with guarded("sh", "-c", "sleep 0.2; exit 7") as (guard, _child):
        assert guard.wait(5) == 7


@contextlib.contextmanager
def guarded(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], ProcessIdentity]]:
    with talking(
        [sys.executable, "-I", guardian.__file__, str(os.getpid()), "", *command]
    ) as guard:
        assert guard.stdout is not None
        child = ProcessIdentity.of(int(guard.stdout.readline()))
        assert child is not None
        try:
            yield guard, child
        finally:
            child.end(1)


def talking(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def words(text: str) -> str:
    """Without the line breaks of a terminal, nor the frame that an error may have."""
    return " ".join(text.replace("│", " ").split())


def running(broker: Broker) -> set[str]:
    status = broker("status", "--json")
    assert status.returncode == 0
    return {told["service_url"] for told in json.loads(status.stdout)["brokers"]}


def started(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def service_port(told: dict[str, Any]) -> int:
    return int(told["service_url"].rsplit(":", 1)[1])


def admin_port(told: dict[str, Any]) -> int:
    return int(told["admin_url"].rsplit(":", 1)[1])


def create_topic(told: dict[str, Any], name: str) -> None:
    assert ask(told, "PUT", f"/admin/v2/persistent/public/default/{name}")[0] == 204


def topics(told: dict[str, Any]) -> list[str]:
    listed: list[str] = json.loads(ask(told, "GET", "/admin/v2/persistent/public/default")[1])
    return listed


def ask(told: dict[str, Any], method: str, path: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection(HOST, admin_port(told))) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
