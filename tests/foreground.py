"""A command in the foreground of a terminal of its own, as far as signals go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.forks import Command, start

WITHIN_S = 90.0
_LOOK_EVERY_S = 0.02


class Foreground:
    """`keylane ...` as the leader of a process group, with `folder` as its home.

    All that it starts has a path below `folder` on its command line, by which it is found.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir(exist_ok=True)
        number = len(list(folder.glob("*.stderr")))
        self._stdout = folder / f"{number}.stdout"
        self._stderr = folder / f"{number}.stderr"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("KEYLANE_")}
        homes = {"TMPDIR": str(self._temporary), "XDG_STATE_HOME": str(folder / "state")}
        self._process = start(
            Command(arguments, folder, inherited | homes | env, self._stdout, self._stderr)
        )

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait(self) -> int:
        self._process.wait(WITHIN_S)
        code = self._process.poll()
        assert code is not None
        return code

    def wait_for(self, words: str) -> str:
        """The first line of standard error with these words in it, from there on."""
        self.until(lambda: words in self.stderr and self.stderr.endswith("\n"), words)
        return words + self.stderr.split(words, 1)[1].splitlines()[0]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert self._process.poll() is None, f"it ended before: {what}\n{self.stderr}"
            assert time.monotonic() < deadline, f"not within {WITHIN_S} s: {what}\n{self.stderr}"
            time.sleep(_LOOK_EVERY_S)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        (os.killpg if to_group else os.kill)(self._process.pid, number)

    def processes(self, words: str) -> list[int]:
        """Those with these words and the folder on their command line, guardians left out."""
        return [
            pid
            for pid, command in _commands()
            if words in command and str(self.folder) in command and "guardian.py" not in command
        ]

    def left_processes(self) -> list[str]:
        return [command for _, command in _commands() if str(self.folder) in command]

    def wait_until_nothing_is_left(self) -> None:
        deadline = time.monotonic() + WITHIN_S
        while left := self.left_processes():
            assert time.monotonic() < deadline, left
            time.sleep(_LOOK_EVERY_S)

    def left_folders(self) -> list[str]:
        # The dispatcher's lock files stay: locks go with their process, files must not.
        return [
            path.name
            for path in self._temporary.iterdir()
            if path.name.startswith(("keylane-demo-", "keylane-up-", "keylane-broker-"))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.wait_until_nothing_is_left()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _commands() -> list[tuple[int, str]]:
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    lines = (line.strip().split(maxsplit=1) for line in listing.splitlines())
    return [(int(line[0]), line[1]) for line in lines if len(line) > 1]
