"""What runs here runs in processes of its own, because the supervisor forks them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from keylane import supervisor
from keylane.settings import Settings
from keylane.supervisor import supervise
from tests.forks import FORKS

COUNT = 3
WITHIN_S = 15.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def number_of(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def drain_together(folder: Path, _name: str, _settings: Settings, index: int) -> None:
    """A worker that ends only when all others have been told to end, too."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    (folder / f"started-{index}").touch()
    wait_for(lambda: bool(told))
    (folder / f"told-{index}").touch()
    wait_for(lambda: number_of(folder, "told-*") == COUNT)
    (folder / f"ended-{index}").touch()


def supervise_draining(folder: Path) -> None:
    supervise("crm", Settings(), partial(drain_together, folder), COUNT)


def test_workers_of_a_killed_command_drain_at_once_not_one_after_the_other(tmp_path: Path) -> None:
    command = FORKS.Process(target=supervise_draining, args=(tmp_path,))
    command.start()
    try:
        wait_for(lambda: number_of(tmp_path, "started-*") == COUNT)
    finally:
        command.kill()

    wait_for(lambda: number_of(tmp_path, "ended-*") == COUNT)


def touch(file: Path, _name: str, _settings: Settings, _index: int) -> None:
    file.touch()


def start_one_that_is_told_to_end_at_once(file: Path) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    worker = supervisor._Worker(0)
    supervisor._look_after(worker, "crm", Settings(), partial(touch, file))
    assert worker.process
    worker.process.join(WITHIN_S)
    sys.exit(worker.process.exitcode == -signal.SIGTERM)


def test_a_signal_between_the_fork_and_the_workers_own_handlers_is_not_lost(tmp_path: Path) -> None:
    command = FORKS.Process(target=start_one_that_is_told_to_end_at_once, args=(tmp_path / "ran",))
    command.start()
    command.join(WITHIN_S)

    assert command.exitcode == int(True)
    assert not (tmp_path / "ran").exists()


def tell_how_they_start(file: Path) -> None:
    def told() -> str:
        return supervisor._context().get_start_method()

    alone = told()
    sys.modules["_pulsar"] = sys.modules[__name__]
    beside_client = told()
    del sys.modules["_pulsar"]
    goes_on = threading.Event()
    thread = threading.Thread(target=goes_on.wait)
    thread.start()
    beside_thread = told()
    goes_on.set()
    thread.join()
    file.write_text(f"{alone} {beside_client} {beside_thread}")


def test_a_process_with_threads_or_a_client_is_never_forked(tmp_path: Path) -> None:
    file = tmp_path / "told"
    command = FORKS.Process(target=tell_how_they_start, args=(file,))
    command.start()
    command.join(WITHIN_S)

    first = "fork" if sys.platform == "linux" else "spawn"
    assert file.read_text() == f"{first} spawn spawn"
