"""Processes that need not import what they need: forks of one that has.

To import takes a `keylane` command a second of a core, more than most tests let it work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYLANE: Final = Path(sys.executable).with_name("keylane")
#: Tests of many events run at the size that is promised, instead of one that keeps the suite short;
#: and commands are run as people run them.
FULL: Final = bool(os.environ.get("KEYLANE_TEST_FULL"))

FORKS: Final = multiprocessing.get_context("forkserver")
# Read when the first process is made, which forks the others.
FORKS.set_forkserver_preload(["tests.preloaded"])


@dataclass(frozen=True, slots=True)
class Command:
    """A `keylane ...`, and what it is run with; it appends to these files."""

    arguments: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    stdout: Path
    stderr: Path
    stdin: Path = Path(os.devnull)


class Fork:
    """As much of `subprocess.Popen` as is used here, in a session of its own."""

    def __init__(self, command: Command) -> None:
        self._process = FORKS.Process(target=_run, args=(command,))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        if self.poll() is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("keylane", timeout)


def start(command: Command) -> Fork | subprocess.Popen[bytes]:
    """Run it in a session of its own."""
    command.stdout.touch()
    command.stderr.touch()
    if not FULL:
        return Fork(command)
    with (
        command.stdin.open("rb") as stdin,
        command.stdout.open("ab") as stdout,
        command.stderr.open("ab") as stderr,
    ):
        return subprocess.Popen(
            [KEYLANE, *command.arguments],
            cwd=command.cwd,
            env=command.env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


def run(
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes = b"",
    within_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, by default in this folder; killed, with an error, if it takes longer."""
    with tempfile.TemporaryDirectory() as directory:
        given, stdout, stderr = (Path(directory, name) for name in ("stdin", "stdout", "stderr"))
        given.write_bytes(stdin)
        command = Command(arguments, cwd or Path.cwd(), dict(env), stdout, stderr, given)
        process = start(command)
        try:
            process.wait(within_s)
        finally:
            process.kill()
        return completed(command, process)


def completed(
    command: Command, process: Fork | subprocess.Popen[bytes]
) -> subprocess.CompletedProcess[str]:
    """What became of a command that has ended."""
    code = process.poll()
    assert code is not None
    return subprocess.CompletedProcess(
        command.arguments, code, command.stdout.read_text(), command.stderr.read_text()
    )


def _run(command: Command) -> None:
    os.setsid()
    os.chdir(command.cwd)
    for number, path in enumerate((command.stdin, command.stdout, command.stderr)):
        opened = os.open(path, os.O_RDWR | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    # Else it is what multiprocessing gives its processes: nothing.
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(command.env)
    time.tzset()
    sys.argv = [str(KEYLANE), *command.arguments]
    from operate.__main__ import main

    main()
