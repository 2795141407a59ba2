"""One broker for all processes of a test run, which ends with the last that uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from operate.broker.local import LocalBrokerOptions
from tests import brokers
from tests.brokers import SharedBroker
from tests.waiting import until


@dataclass
class Run:
    """Its process."""

    log: Path
    is_running: bool = True
    identity: None = None

    def is_alive(self) -> bool:
        return self.is_running

    def log_file(self) -> Path:
        return self.log


@dataclass
class Started:
    """A broker that is not there, of which all is known that is asked for."""

    number: int
    tool: Path | None
    run: Run
    is_stopped: bool = False

    @property
    def service_url(self) -> str:
        return f"pulsar://{self.number}"

    admin_url = "http://nowhere"

    def admin_tool(self) -> Path | None:
        return self.tool

    def stop(self) -> None:
        self.is_stopped = True


class Machine:
    """Where brokers are started."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.started: list[Started] = []
        self.tool: Path | None = Path("pulsar-admin")

    def start(self, _options: LocalBrokerOptions) -> Started:
        self.started.append(Started(len(self.started), self.tool, Run(self.log)))
        return self.started[-1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "broker.log")
    monkeypatch.setattr(brokers, "start_quickly", machine.start)
    return machine


async def test_who_comes_second_takes_the_broker_of_the_first_who_waits_for_him_at_the_end(
    machine: Machine, tmp_path: Path
) -> None:
    first, second = SharedBroker(tmp_path), SharedBroker(tmp_path)

    assert first.address().service_url == "pulsar://0"
    assert second.address().service_url == "pulsar://0"
    with ThreadPoolExecutor() as pool:
        leaving = pool.submit(first.leave)
        assert not wait([leaving], 0.2).done
        assert not machine.started[0].is_stopped
        second.leave()
        await until(leaving.done, 5)
    assert machine.started[0].is_stopped


async def test_who_comes_when_it_is_about_to_end_keeps_it_and_who_comes_afterwards_starts_another(
    machine: Machine, tmp_path: Path
) -> None:
    first, second, third, fourth = (SharedBroker(tmp_path) for _ in range(4))
    first.address()
    second.address()

    with ThreadPoolExecutor() as pool:
        leaving = pool.submit(first.leave)
        assert third.address().service_url == "pulsar://0"
        second.leave()
        assert not machine.started[0].is_stopped
        third.leave()
        await until(leaving.done, 5)

    assert fourth.address().service_url == "pulsar://1"
    fourth.leave()
    assert [broker.is_stopped for broker in machine.started] == [True, True]


def test_of_containers_each_has_its_own_and_nobody_waits(machine: Machine, tmp_path: Path) -> None:
    machine.tool = None
    first, second = SharedBroker(tmp_path), SharedBroker(tmp_path)

    assert first.address().service_url == "pulsar://0"
    assert second.address().service_url == "pulsar://1"
    first.leave()
    second.leave()

    assert [broker.is_stopped for broker in machine.started] == [True, True]


def test_one_that_died_by_itself_is_told_with_its_last_words(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.log.write_text("up\nERROR no room left\n")
    shared = SharedBroker(tmp_path)
    shared.address()
    machine.started[0].run.is_running = False
    shared.leave()

    assert "died while tests used it" in capsys.readouterr().err
    assert machine.started[0].is_stopped
