"""Ctrl-C at the worst moment: when something has been started, and nobody knows of it yet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from operate import interrupt
from operate.broker.config import BrokerPorts, LaunchPlan
from operate.broker.standalone import StandaloneRun

NUMBERS = [signal.SIGINT, signal.SIGTERM]
#: Of which some meet the gap.
TRIES = 3_000


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


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns_often")
def test_a_signal_ends_a_wait_for_input_whenever_it_comes() -> None:
    """Also between the last step of Python and the system call that waits."""
    rng, main = Random(1), threading.main_thread().ident
    assert main is not None
    begins, is_over = threading.Event(), threading.Event()
    given_up_on = 0
    reading, writing = os.pipe()

    def interrupts() -> None:
        nonlocal given_up_on
        for _ in range(TRIES):
            begins.wait()
            begins.clear()
            _spin(rng.random() * 60e-6)
            signal.pthread_kill(main, signal.SIGINT)
            if not is_over.wait(5):
                given_up_on += 1
                os.write(writing, b"x")
                is_over.wait()
            is_over.clear()

    other = threading.Thread(target=interrupts)
    other.start()
    with interrupt.sigterm_is_ctrl_c(), interrupt.noticed() as signals:
        for _ in range(TRIES):
            with contextlib.suppress(KeyboardInterrupt):
                delay_s = rng.random() * 150e-6
                begins.set()
                _spin(delay_s)
                interrupt.wait_for(reading, signals)
                while True:
                    time.sleep(0.001)  # it is the signal that ends it, and no other
            is_over.set()
            while is_over.is_set() and other.is_alive():
                time.sleep(0)
    other.join()
    os.close(reading)
    os.close(writing)
    assert given_up_on == 0


def _spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
