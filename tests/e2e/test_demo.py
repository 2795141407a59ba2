from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from operate.broker.ports import HOST
from tests.foreground import Foreground

pytestmark = [pytest.mark.timeout(180)]

INTERRUPTED = 130
UNAVAILABLE = 69
WITHOUT_PULSAR = {"PULSAR_HOME": "/nowhere"}

Start: TypeAlias = Callable[..., Foreground]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def run(*arguments: str, **env: str) -> Foreground:
            return stack.enter_context(Foreground(arguments, tmp_path, env))

        yield run


@pytest.mark.real_broker
def test_the_demo_delivers_everything_in_order_on_a_real_broker_and_leaves_nothing(
    start: Start,
) -> None:
    demo = start("demo")
    assert demo.wait() == 0, demo.stderr

    assert "no fsync" in demo.stderr.splitlines()[0]
    assert "user-4 webhook event-2-payload 2 event-1-payload: max-attempts (3 attempts" in words(
        demo.stdout
    )
    assert "As promised: 9 events" in demo.stdout
    assert "NO" not in demo.stdout
    assert demo.left_processes() == []
    assert demo.left_folders() == []


@pytest.mark.long
@pytest.mark.real_broker
def test_the_demo_tells_its_result_as_json(start: Start) -> None:
    demo = start("demo", "--json")
    assert demo.wait() == 0, demo.stderr

    told = json.loads(demo.stdout)
    assert (told["ok"], told["broker"], told["events"]) == (True, "pulsar", 9)
    check_users(told["users"])
    assert demo.left_processes() == []


def test_where_no_real_broker_can_be_had_the_demo_runs_in_memory_and_says_so(start: Start) -> None:
    demo = start("demo", "--json", **WITHOUT_PULSAR)
    assert demo.wait() == 0, demo.stderr

    assert "No real broker can be had" in demo.stderr
    assert "NOTHING IS DURABLE" in demo.stderr
    told = json.loads(demo.stdout)
    assert (told["ok"], told["broker"]) == (True, "memory")
    check_users(told["users"])
    assert demo.left_folders() == []


def test_a_demo_that_must_have_a_real_broker_fails_without_one(start: Start) -> None:
    demo = start("demo", "--broker", "pulsar", **WITHOUT_PULSAR)

    assert demo.wait() == UNAVAILABLE
    assert "PULSAR_HOME" in demo.stderr
    assert demo.stdout == ""


@pytest.mark.real_broker
@pytest.mark.parametrize(
    ("phase", "to_group", "number"),
    [
        pytest.param("Starting Apache Pulsar", True, signal.SIGINT),
        pytest.param("starting ingest", False, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("9 events accepted", True, signal.SIGINT, marks=pytest.mark.long),
        pytest.param("stopping the broker", False, signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_demo_leaves_no_process_in_any_phase(
    start: Start, phase: str, to_group: bool, number: signal.Signals
) -> None:
    demo = start("demo")
    demo.wait_for(phase)

    demo.send(number, to_group=to_group)

    assert demo.wait() == INTERRUPTED, demo.stderr
    assert "interrupted; everything that was started is stopped" in demo.stderr
    assert demo.left_processes() == []
    assert demo.left_folders() == []


def test_a_demo_in_memory_can_be_interrupted_too(start: Start) -> None:
    demo = start("demo", "--broker", "memory")
    demo.wait_for("9 events accepted")

    demo.send(signal.SIGINT, to_group=True)

    assert demo.wait() == INTERRUPTED
    assert demo.left_folders() == []


@pytest.mark.long
@pytest.mark.real_broker
def test_a_killed_demo_takes_all_its_processes_with_it(start: Start) -> None:
    demo = start("demo")
    demo.wait_for("9 events accepted")
    assert len(demo.left_processes()) >= 6, "the check itself sees them"

    demo.send(signal.SIGKILL)

    demo.wait()
    demo.wait_until_nothing_is_left()
    assert demo.left_folders() == []


@pytest.mark.long
@pytest.mark.real_broker
def test_a_demo_whose_dispatcher_dies_fails_at_once_and_shows_the_logs(start: Start) -> None:
    demo = start("demo")
    demo.wait_for("9 events accepted")

    (dispatcher,) = demo.processes("operate dispatch webhook")
    os.kill(dispatcher, signal.SIGKILL)

    assert demo.wait() == 1
    assert "dispatch webhook ended by itself by SIGKILL. It wrote last:" in demo.stderr
    folder = Path(demo.stderr.split("the logs of all parts are in ")[1].split()[0])
    assert (folder / "dispatch-webhook.log").read_text()
    assert demo.left_processes() == []


def test_receive_prints_deliveries_and_fails_the_user_it_was_told(start: Start) -> None:
    receiver = start("receive", "--port", "0", "--fail-user", "user-4", "--json")
    port = int(receiver.wait_for("listening on ").split("; ")[0].rpartition(":")[2])

    assert post(port, "user-1") == 200
    assert post(port, "user-4") == 500

    receiver.send(signal.SIGINT)
    assert receiver.wait() == 0
    told = [json.loads(line) for line in receiver.stdout.splitlines()]
    assert [(one["user"], one["status"], one["payload"]) for one in told] == [
        ("user-1", 200, {"n": 1}),
        ("user-4", 500, {"n": 1}),
    ]


def test_receive_refuses_a_port_that_is_taken(start: Start) -> None:
    first = start("receive", "--port", "0")
    port = first.wait_for("listening on ").split("; ")[0].rpartition(":")[2]

    second = start("receive", "--port", port)

    assert second.wait() == 78
    assert "--port" in second.stderr


def check_users(users: list[dict[str, Any]]) -> None:
    rows = {(row["user"], row["destination"]): row for row in users}
    assert len(rows) == 10
    assert all(row["in_order"] for row in users)
    both = ["event-1-payload", "event-2-payload"]
    assert rows["user-1", "file"]["delivered"] == both
    assert rows["user-4", "file"]["delivered"] == both
    failing = rows["user-4", "webhook"]
    assert failing["delivered"] == both[1:]
    assert failing["retried"] == 2
    assert failing["dead_lettered"] == ["event-1-payload: max-attempts (3 attempts, answered 500)"]
    assert rows["user-5", "webhook"]["delivered"] == both
    assert rows["user-5", "webhook"]["retried"] == 1


def post(port: int, user: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
        connection.request("POST", "/hook", b'{"n": 1}', {"keylane-user": user, "ce-id": "1"})
        return connection.getresponse().status


def words(text: str) -> str:
    return " ".join(text.split())
