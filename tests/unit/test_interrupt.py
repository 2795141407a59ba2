"""Ctrl-C at the worst moment: when something has been started, and nobody knows of it yet."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from operate import interrupt
from operate.broker.config import BrokerPorts, LaunchPlan
from operate.broker.standalone import StandaloneRun

NUMBERS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", NUMBERS)
def test_what_comes_while_it_is_held_back_comes_at_the_end(number: signal.Signals) -> None:
    done = []

    def start() -> None:
        with interrupt.held_back():
            signal.raise_signal(number)
            done.append("started")

    with interrupt.sigterm_is_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            start()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert done == ["started"]


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.held_back():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with interrupt.held_back():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def test_a_broker_that_is_interrupted_while_it_starts_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Interrupting(subprocess.Popen[bytes]):
        """Ctrl-C comes when the process is there, and before whoever asked for it has it."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home, data = tmp_path / "pulsar", tmp_path / "data"
    for folder in (home / "bin", home / "conf", home / "lib", data):
        folder.mkdir(parents=True)
    (home / "conf" / "standalone.conf").write_text("")
    (home / "bin" / "pulsar").write_text("#!/bin/sh\nexec sleep 60\n")
    (home / "bin" / "pulsar").chmod(0o755)
    run = StandaloneRun(home, LaunchPlan(BrokerPorts(1, 2, 3), data, True, False, {}))
    monkeypatch.setattr(subprocess, "Popen", Interrupting)

    with pytest.raises(KeyboardInterrupt):
        run.launch()
    run.end()

    assert [guardian.poll() is None for guardian in started] == [False]
