"""A fork does what the command does that people run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.forks import FORKS, KEYLANE, Command, Fork, run
from tests.waiting import until

RUNNING = ("receive", "--port", "0")


def command(folder: Path, *arguments: str, **env: str) -> Command:
    out, err = folder / "out", folder / "err"
    out.touch()
    err.touch()
    return Command(arguments, folder, {"PATH": os.environ["PATH"], **env}, out, err)


@pytest.mark.parametrize("arguments", [("config", "--json"), ("keys", "list"), ("dispatch",)])
def test_it_prints_and_ends_as_the_command_does(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    asked = command(tmp_path, *arguments, KEYLANE_TOPIC="orders", COLUMNS="80")
    real = subprocess.run(
        [KEYLANE, *arguments], cwd=tmp_path, env=asked.env, capture_output=True, check=False
    )

    fork = Fork(asked)
    fork.wait()

    assert fork.poll() == real.returncode
    assert asked.stdout.read_bytes() == real.stdout
    assert asked.stderr.read_bytes() == real.stderr


def test_it_reads_what_it_is_given(tmp_path: Path) -> None:
    done = run(
        "send", "--url", "http://127.0.0.1:9", cwd=tmp_path, env=os.environ, stdin=b"nonsense"
    )

    assert (done.returncode, done.stdout.startswith("line 1: is no JSON")) == (65, True), done


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(*RUNNING, cwd=tmp_path, env=os.environ, within_s=0.1)


async def test_it_is_in_a_session_of_its_own_and_can_be_killed(tmp_path: Path) -> None:
    fork = Fork(command(tmp_path, *RUNNING))
    try:
        await until(lambda: os.getsid(fork.pid) == fork.pid)
        assert fork.poll() is None
    finally:
        fork.kill()
        fork.wait()

    assert fork.poll() == -signal.SIGKILL


def _has(module: str) -> None:
    import sys

    sys.exit(7 if module in sys.modules else 8)


@pytest.mark.parametrize(("module", "code"), [("pulsar", 8), ("_pulsar", 8), ("uvicorn", 7)])
def test_the_client_is_not_shared(module: str, code: int) -> None:
    """Forks of a process that has it would draw the same random names."""
    process = FORKS.Process(target=_has, args=(module,))
    process.start()
    process.join()

    assert process.exitcode == code
