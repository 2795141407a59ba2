"""Settings that are read again while events are delivered."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from dispatch.process import deliver
from dispatch.reload import Reload
from keylane import hangup
from keylane.event import Event, to_message
from keylane.memory import MemoryBroker
from keylane.settings import Settings, Source, load_settings
from keylane.supervisor import supervise
from operate.running import in_memory
from tests.waiting import until


class Site:
    """`keylane dispatch crm` on a broker in memory, with its `keylane.toml` in this folder."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "keylane.toml"
        self.folder = folder
        self.stop = asyncio.Event()
        self.reload = Reload(partial(load_settings, self.config))
        self.running: asyncio.Task[None]

    def write(self, toml: str) -> None:
        self.config.write_text(toml, encoding="utf-8")

    def to(self, file: str, more: str = "") -> str:
        return f'[destinations.crm]\nto = "file:{self.folder / file}"\n{more}'

    async def start(self) -> None:
        settings = load_settings(self.config)
        self.broker = MemoryBroker(in_memory(settings))
        self.running = asyncio.create_task(
            deliver("crm", settings, self.broker, "worker", self.stop, reload=self.reload)
        )

    async def publish(self, user: str, *ids: str) -> None:
        publisher = await self.broker.publisher("user-events")
        now_ms = time.time_ns() // 1_000_000
        for event_id in ids:
            event = Event(id=event_id, user=user, payload=b"{}", accepted_at_ms=now_ms)
            publisher.send(to_message(event), lambda _: None)

    def ids(self, file: str) -> list[str]:
        path = self.folder / file
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [orjson.loads(line)["id"] for line in lines]

    async def end(self) -> None:
        self.stop.set()
        await self.running
        await self.broker.close()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    for name in os.environ:
        if name.upper().startswith("KEYLANE_"):
            monkeypatch.delenv(name)
    site = Site(tmp_path)
    yield site
    await site.end()


async def reloading(site: Site, event: str) -> dict[str, object]:
    """Ask for it; returns the log line that says what came of it."""
    with capture_logs() as lines:
        site.reload.ask()
        await until(lambda: any(line["event"] == event for line in lines))
    return next(dict(line) for line in lines if line["event"] == event)


async def test_a_new_address_gets_what_is_delivered_from_then_on(site: Site) -> None:
    site.write(site.to("before"))
    await site.start()
    await site.publish("user-1", "1", "2")
    await until(lambda: site.ids("before") == ["1", "2"])

    site.write(site.to("after"))
    await reloading(site, "configuration.reloaded")
    await site.publish("user-1", "3")

    await until(lambda: site.ids("after") == ["3"])
    assert site.ids("before") == ["1", "2"]


async def test_a_retry_policy_changes_for_events_that_wait_and_their_order_stays(
    site: Site,
) -> None:
    # No attempt gets through, and each would be tried for ever.
    failing = "[dispatch]\nmax_attempts = 1000\nbackoff_min_s = 0.02\nbackoff_max_s = 0.02\n"
    site.write(failing + "reliability = 0\n" + site.to("out"))
    await site.start()
    await site.publish("user-1", "1", "2", "3")
    await until(lambda: site.running.done() or (site.folder / "out").exists())

    site.write(failing + "reliability = 100\n" + site.to("out"))
    await reloading(site, "configuration.reloaded")

    await until(lambda: site.ids("out") == ["1", "2", "3"])


async def test_settings_with_mistakes_are_refused_as_a_whole_and_the_old_ones_go_on(
    site: Site,
) -> None:
    site.write(site.to("before"))
    await site.start()
    site.write(site.to("after", 'jiter = 1\nsecret = "env:NOT_SET"\n'))

    line = await reloading(site, "configuration.refused")

    assert len(line["problems"]) == 2  # type: ignore[arg-type]  # a list
    assert "did you mean jitter?" in str(line["problems"])
    await site.publish("user-1", "1")
    await until(lambda: site.ids("before") == ["1"])
    assert not (site.folder / "after").exists()

    site.write(site.to("after"))
    await reloading(site, "configuration.reloaded")
    await site.publish("user-1", "2")
    await until(lambda: site.ids("after") == ["2"])


async def test_an_address_that_can_not_be_opened_is_refused_too(site: Site) -> None:
    site.write(site.to("before"))
    await site.start()
    site.write('[destinations.crm]\nto = "nonsense:x"\n')

    line = await reloading(site, "configuration.refused")

    assert "nonsense" in str(line["problems"])
    await site.publish("user-1", "1")
    await until(lambda: site.ids("before") == ["1"])


async def test_what_needs_a_restart_is_told_and_kept(site: Site) -> None:
    site.write(site.to("out"))
    await site.start()
    site.write('topic = "other"\n' + site.to("out", "concurrency = 3\n"))

    line = await reloading(site, "configuration.kept")

    assert line["settings"] == ["topic", "destinations.crm.concurrency"]
    assert line["consequence"] == "takes effect after a restart"
    await site.publish("user-1", "1")
    await until(lambda: site.ids("out") == ["1"])


async def test_a_bug_while_reading_leaves_the_worker_as_it_is(site: Site) -> None:
    def broken() -> Settings:
        raise RuntimeError("a bug")

    site.write(site.to("out"))
    site.reload = Reload(broken)
    await site.start()

    await reloading(site, "configuration.broke")

    await site.publish("user-1", "1")
    await until(lambda: site.ids("out") == ["1"])


def test_options_of_the_command_stay_in_force_over_reloads(tmp_path: Path) -> None:
    source = Source(tmp_path / "keylane.toml", {"dispatch": {"max_attempts": 3}})
    source.config.write_text("[dispatch]\nmax_attempts = 4\ntimeout_s = 4\n")  # type: ignore[union-attr]  # given
    assert source.load().dispatch.max_attempts == 3

    source.config.write_text("[dispatch]\nmax_attempts = 5\ntimeout_s = 5\n")  # type: ignore[union-attr]  # given

    assert (source.load().dispatch.max_attempts, source.load().dispatch.timeout_s) == (3, 5)


def test_a_terminal_is_gone_only_if_there_was_one() -> None:
    ours, theirs = pty.openpty()
    with_terminal = (
        "import contextlib, sys; from keylane.hangup import Terminal; terminal = Terminal()\n"
        "print(terminal.is_gone(), flush=True)\n"
        "with contextlib.suppress(OSError): sys.stdin.read()\n"
        "print(terminal.is_gone())"
    )
    program = [sys.executable, "-c", with_terminal]
    root = Path(__file__).parents[2]
    with subprocess.Popen(program, cwd=root, stdin=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == b"False\n"
        os.close(ours)
        assert process.stdout.readline() == b"True\n"
        assert process.stdout.read() == b""

    assert not hangup.Terminal().is_gone()


# Several workers


def note(folder: Path, _name: str, settings: Settings, index: int) -> None:
    """A worker that writes down each SIGHUP; a moment passes before it takes any."""
    told: list[int] = []
    (folder / f"started-{index}-{settings.topic}").touch()
    time.sleep(0.5)
    signal.signal(signal.SIGHUP, lambda *_: told.append(1))
    hangup.take()
    while not told:
        time.sleep(0.01)
    (folder / f"told-{index}").touch()
    if index == 0:
        os._exit(1)  # to be started again, with the settings of now
    signal.pause()


def renewed(folder: Path, settings: Settings) -> Settings | None:
    if (folder / "refuse").exists():
        (folder / "refused").touch()
        return None
    return settings.model_copy(update={"topic": "after"})


def run_supervised(folder: str) -> None:
    path = Path(folder)
    run_one = partial(note, path)
    sys.exit(supervise("crm", Settings(topic="before"), run_one, 2, partial(renewed, path)))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_worker_is_told_and_one_that_starts_later_has_the_settings_of_now(
    tmp_path: Path,
) -> None:
    program = "from tests.unit.test_destination_reload import run_supervised as r; r"
    root = Path(__file__).parents[2]
    (tmp_path / "refuse").touch()
    with subprocess.Popen(
        [sys.executable, "-c", f"if __name__ == '__main__': {program}({str(tmp_path)!r})"],
        cwd=root,
    ) as parent:
        try:
            wait_for(lambda: len(list(tmp_path.glob("started-?-before"))) == 2)
            parent.send_signal(signal.SIGHUP)
            wait_for((tmp_path / "refused").exists)
            (tmp_path / "refuse").unlink()
            assert not list(tmp_path.glob("told-?"))

            parent.send_signal(signal.SIGHUP)

            wait_for(lambda: len(list(tmp_path.glob("told-?"))) == 2)
            wait_for((tmp_path / "started-0-after").exists)
        finally:
            parent.terminate()
        assert parent.wait(10) == 0
