"""Processes known by pid and start time, so that a reused pid is never mistaken for ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, the leader of its own group."""

    pid: int
    started_at: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Who runs under `pid` now; `None` if nobody does."""
        started_at = _start_time(pid)
        return cls(pid, started_at) if started_at else None

    def is_alive(self) -> bool:
        return _start_time(self.pid) == self.started_at

    def send(self, signum: signal.Signals) -> None:
        """Signal the whole group, unless the process is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def wait_gone(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL for what is still there after the grace."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a frozen process would not notice
        if not self.wait_gone(grace_s):
            self.send(signal.SIGKILL)
            self.wait_gone(grace_s)


def _start_time(pid: int) -> str | None:
    """When `pid` was started, in whatever unit the system says; `None` if gone or a zombie."""
    if Path("/proc/self/stat").exists():
        return _start_time_from_proc(pid)
    return _start_time_from_ps(pid)


def _start_time_from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    state, started_at = fields[0], fields[19]
    return None if state in "ZX" else started_at


def _start_time_from_ps(pid: int) -> str | None:
    listing = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    state, _, started_at = listing.partition(" ")
    return None if not state or state.startswith("Z") else started_at.strip()
