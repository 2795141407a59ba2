"""Whether it is our broker that answers, and what becomes of one whose port was lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from operate.broker import local
from operate.broker.config import BrokerPorts, LaunchPlan
from operate.broker.health import is_healthy
from operate.broker.local import LocalBrokerOptions, PortLost
from operate.broker.ports import HOST, choose_port

HEALTH = "/admin/v2/brokers/health"
NAMESPACES = "/admin/v2/namespaces/public"
SETTINGS = "/admin/v2/brokers/configuration/runtime"


@contextmanager
def answering(answers: dict[str, bytes], admin_port: int = 0) -> Iterator[int]:
    """A broker's admin port, by default a free one."""

    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(answer or b"")

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, admin_port), Admin) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def answers_of(service_port: int) -> dict[str, bytes]:
    """As Pulsar 4.0 gives them."""
    return {
        HEALTH: b"ok",
        NAMESPACES: b'["public/default"]',
        SETTINGS: json.dumps({"brokerServicePort": f"Optional[{service_port}]"}).encode(),
    }


def test_a_broker_is_healthy_that_stores_and_delivers_and_has_its_namespace() -> None:
    with answering(answers_of(21_650)) as admin_port:
        assert is_healthy(21_650, admin_port)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (HEALTH, b"no"),
        (NAMESPACES, b"[]"),
        (SETTINGS, b'{"brokerServicePort":"Optional[21651]"}'),
        (SETTINGS, b'{"brokerServicePort":"Optional.empty"}'),
        (SETTINGS, None),
    ],
    ids=["unwell", "no namespace", "another broker", "no service port", "settings refused"],
)
def test_anything_else_is_not_our_healthy_broker(path: str, answer: bytes | None) -> None:
    answers = {name: told for name, told in answers_of(21_650).items() if name != path}
    if answer is not None:
        answers[path] = answer

    with answering(answers) as admin_port:
        assert not is_healthy(21_650, admin_port)


class Run:
    """A broker's process; one whose admin port is taken ends with that, but not at once."""

    identity = None

    def __init__(self, plan: LaunchPlan, stack: ExitStack) -> None:
        self.plan, self.stack = plan, stack
        self.looks = 5
        self.has_port = False

    def launch(self) -> None:
        ports = self.plan.ports
        try:
            self.stack.enter_context(answering(answers_of(ports.service), ports.admin))
        except OSError:
            self.log_file().write_text("java.io.IOException: Failed to bind to /127.0.0.1\n")
        else:
            self.has_port = True
            self.log_file().write_text("healthy\n")

    def is_alive(self) -> bool:
        self.looks -= not self.has_port
        return self.looks > 0

    def came_up(self) -> None: ...

    def end(self) -> None: ...

    def log_file(self) -> Path:
        return self.plan.data_dir / "broker.log"


def start(drawn: list[BrokerPorts], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """The broker that comes of it, with those ports drawn one after the other, and what is told."""
    monkeypatch.setattr(local, "_choose_ports", lambda _options: drawn.pop(0))
    told: list[str] = []
    with ExitStack() as stack:

        def make_run(plan: LaunchPlan) -> Any:
            return Run(plan, stack)

        return local._start_with(
            make_run, LocalBrokerOptions(), told.append, lambda _broker: None
        ), told


def test_another_broker_on_the_admin_port_is_not_taken_for_ours_while_ours_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = BrokerPorts(21_652, choose_port(0, ""), 21_182)

    with answering(answers_of(21_650)) as taken:
        broker, told = start([BrokerPorts(21_651, taken, 21_181), free], monkeypatch)

    broker.stop()
    assert broker.ports == free
    assert told == [
        "Starting Apache Pulsar on port 21651",
        "Another program took the port meanwhile; trying another one",
        "Starting Apache Pulsar on port 21652",
    ]


def test_a_port_that_is_lost_again_and_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answers_of(21_650)) as taken:
        ports = [BrokerPorts(21_651, taken, 21_181)] * 3
        with pytest.raises(PortLost, match="Failed to bind"):
            start(ports, monkeypatch)
    assert not ports
