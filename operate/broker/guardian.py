"""Runs one command that must not outlive the process that asked for it.

Started as a script, with the standard library only: `guardian.py OWNER_PID REMOVE_DIR COMMAND...`
Three ways a broker could be left behind are closed:
- the owner dies, even by SIGKILL: the guardian sees its parent change and ends the command;
- the owner was interrupted before it was told whom to end: SIGTERM to the guardian does it;
- the guardian dies: the kernel kills the command (Linux). The owner itself cannot be watched that
  way, because the kernel watches the thread that started a child, and owners have threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

_POLL_S = 0.2
_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(owner_pid: int, remove_dir: str, command: list[str]) -> int:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # the owner's log file; stdout only tells the pid
        stderr=sys.stderr,
        start_new_session=True,
        preexec_fn=_die_with_guardian() if sys.platform == "linux" else None,  # noqa: PLW1509  no threads here
    )
    print(child.pid, flush=True)  # noqa: T201  the owner reads it
    while child.poll() is None:
        if os.getppid() != owner_pid:
            _end(child)
            if remove_dir:
                shutil.rmtree(remove_dir, ignore_errors=True)
        elif asked:
            _end(child)
        else:
            time.sleep(_POLL_S)
    return child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


class _die_with_guardian:  # noqa: N801  used like a function
    """Runs in the child between fork and exec, so everything it needs is loaded before."""

    def __init__(self) -> None:
        self._prctl = ctypes.CDLL(None).prctl
        self._guardian_pid = os.getpid()

    def __call__(self) -> None:
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._guardian_pid:  # it died before the line above
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
