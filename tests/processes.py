"""The `keylane` command in processes of its own, with their logs kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.forks import Command, start
from tests.waiting import until

#: Python, the broker's client and the topic's policies; three times that on a busy machine.
READY_WITHIN_S = 30.0
STOPPED_WITHIN_S = 15.0
#: Lines of a log that a failed test shows.
_LINES_SHOWN = 40


class Process:
    """One `keylane ...` in a session of its own. `close` ends it for certain."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        self.arguments = arguments
        self._log = log
        self._is_asked_to_stop = False
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("KEYLANE_")}
        # The broker's client opens it once more, and has a place of its own in it.
        self._process = start(Command(arguments, log.parent, inherited | env, log, log))

    @property
    def pid(self) -> int:
        return self._process.pid

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind of occurrence, so far."""
        found = []
        for line in self._log.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                told = orjson.loads(line)
                if isinstance(told, dict) and told.get("event") == event:
                    found.append(told)
        return found

    def urls(self) -> list[str]:
        """Where it can be asked how it is: one address a process that serves."""
        return [told["url"] for told in self.logged("ingest.started")] + [
            told["admin_url"] for told in self.logged("dispatch.started")
        ]

    @property
    def url(self) -> str:
        return self.urls()[0]

    async def ready(self, serving: int = 1, within_s: float = READY_WITHIN_S) -> None:
        """Wait until so many of its processes say that they are ready."""
        deadline = time.monotonic() + within_s
        await until(
            lambda: self.exit_code is not None or len(self.urls()) >= serving,
            within_s,
            self.tail,
        )
        assert self.exit_code is None, self.tail()
        async with aiohttp.ClientSession() as http:
            for url in self.urls():

                async def is_ready(url: str = url) -> bool:
                    return await status_of(http, f"{url}/readyz") == 200

                await until(is_ready, deadline - time.monotonic(), self.tail)

    async def metric(self, name: str) -> dict[str, float]:
        """The sum of one metric over its labels, by the address that told it."""
        sums = {}
        async with aiohttp.ClientSession() as http:
            for url in self.urls():
                async with http.get(f"{url}/metrics") as answer:
                    text = await answer.text()
                values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
                sums[url] = sum(map(float, values))
        return sums

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exited(self, within_s: float = STOPPED_WITHIN_S) -> int:
        """Wait for its end, and for that of all it started; returns the exit code."""
        await until(lambda: self.exit_code is not None, within_s, self.tail)
        await until(lambda: not self._has_anyone_left(), 5.0, lambda: "of its processes remain")
        assert self.exit_code is not None
        return self.exit_code

    async def stop(self, within_s: float = STOPPED_WITHIN_S) -> int:
        """SIGTERM, as an orchestrator stops it; returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.exited(within_s)

    async def kill(self) -> float:
        """SIGKILL; returns when, on the steady clock."""
        at = time.monotonic()
        self._process.kill()
        await until(lambda: self.exit_code is not None)
        return at

    def peak_bytes(self) -> int:
        """The most memory that it ever held, where the system tells; else what it holds now."""
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
            assert found is not None
            return int(found[1]) * 1024
        told = subprocess.check_output(["/bin/ps", "-o", "rss=", "-p", str(self.pid)])
        return int(told) * 1024

    def tail(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
        title = f"keylane {' '.join(self.arguments)} (exit code {self.exit_code})"
        return "\n".join(["", title, *(f"  {line}" for line in lines)])

    def ask_to_stop(self) -> None:
        """SIGTERM, once: a second one would abort."""
        if self.exit_code is None and not self._is_asked_to_stop:
            self._is_asked_to_stop = True
            self.signal(signal.SIGTERM)

    async def close(self) -> None:
        """End it and everything it started; to be called whatever happened to it."""
        if self.exit_code is None:
            self.ask_to_stop()
            with contextlib.suppress(AssertionError):
                await until(lambda: self.exit_code is not None, STOPPED_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)

    def _has_anyone_left(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


async def status_of(http: aiohttp.ClientSession, url: str) -> int:
    """The status that a GET is answered; 0 if nobody answers."""
    try:
        async with http.get(url) as answer:
            return answer.status
    except (aiohttp.ClientError, OSError):
        return 0
