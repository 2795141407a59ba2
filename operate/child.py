"""One command of ours in a process of its own, which never outlives this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from keylane.errors import ConfigurationError, KeylaneError
from keylane.sources import ENV_PREFIX
from operate.broker import guardian
from operate.broker.process import ProcessIdentity
from operate.exits import CONFIGURATION
from operate.together import first_of

READY_WITHIN_S: Final = 60.0
_POLL_S: Final = 0.05
_ANSWER_WITHIN_S: Final = 5.0
_LINE_BYTES: Final = 1024 * 1024
_LINES_KEPT: Final = 8
_HTTP_OK: Final = 200
#: A guardian ends with the exit code of its command, which is negative after a signal.
_BYTE: Final = 256


class PartEnded(KeylaneError):  # noqa: N818  named by the fact
    """A part of the stack ended by itself."""


class Log:
    """The lines that a part writes: each goes to `sink`, and the last are kept for an error."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    def write(self, line: str) -> None:
        self._last.append(line)
        self._sink(line)

    def tail(self) -> str:
        return "".join(f"\n  {line}" for line in self._last) or " It wrote nothing."


@dataclass(frozen=True, slots=True)
class Part:
    """A command line and its name.

    `urls` are those under which its workers have `/readyz`; `drain_s` is how long it may take to
    end after SIGTERM.
    """

    name: str
    arguments: tuple[str, ...]
    urls: tuple[str, ...]
    drain_s: float


class Child:
    """A part that runs, behind the guardian that ends it if this process dies.

    It is in a session of its own: a Ctrl-C in the terminal is this process's to handle, which ends
    the parts in their order. `folder` is removed if this process is killed.
    """

    def __init__(self, part: Part, log: Log, folder: Path) -> None:
        self.part = part
        self._folder = folder
        self._log = log
        self._guard: asyncio.subprocess.Process | None = None
        self._identity: ProcessIdentity | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, or start it again after it ended; returns before it is ready."""
        # If the caller is cancelled it is started nevertheless, and known: `stop` ends it.
        self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", guardian.__file__, str(os.getpid()), self._folder),
            # -P: a folder named like one of our packages must not take its place.
            *(sys.executable, "-P", "-m", "operate", *self.part.arguments),
            env={name: v for name, v in os.environ.items() if not name.startswith(ENV_PREFIX)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        self._guard = guard
        if guard.stdout is not None:
            told = await guard.stdout.readline()
            self._identity = ProcessIdentity.of(int(told)) if told else None
        if guard.stderr is not None:
            self._reading = asyncio.create_task(self._read(guard.stderr))

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit; what follows is read on
                continue
            if not line:
                return
            self._log.write(line.decode(errors="replace").rstrip("\n"))

    async def ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until all its workers are; raises `PartEnded` if it ended or the time is over."""
        try:
            async with asyncio.timeout(within_s):
                await first_of(self._raise_when_ended(), until_ready(self.part.urls))
        except TimeoutError as error:
            raise PartEnded(
                f"{self.part.name} was not ready within {within_s:g} s. It wrote last:"
                f"{self._log.tail()}"
            ) from error

    async def _raise_when_ended(self) -> None:
        raise self.why_ended(await self.ended())

    def why_ended(self, code: int) -> KeylaneError:
        message = f"{self.part.name} ended by itself {fate(code)}. It wrote last:{self._log.tail()}"
        return ConfigurationError(message) if code == CONFIGURATION else PartEnded(message)

    async def ended(self) -> int:
        """Wait until it has ended and all it wrote is in the log; returns its exit code."""
        if self._guard is None:
            raise RuntimeError("start the child first")
        code = await self._guard.wait()
        if self._reading:
            await asyncio.shield(self._reading)
        return code

    async def stop(self) -> None:
        """Let it drain, and end it for certain when that takes longer than it may."""
        if self._starting is None:
            return
        # It may have failed to start; then there is nothing to stop.
        with contextlib.suppress(OSError):
            await self._starting
        if self._guard is None:
            return
        if self._identity is not None and self._identity.is_alive():
            # Not the whole group: workers get the signal from their parent, and a second aborts.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._identity.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), self.part.drain_s)
        except TimeoutError:
            self.kill()
            await self.ended()

    async def hang_up(self) -> None:
        """Have it read its settings again; what ended, or ends now, reads them at its start."""
        # Before it serves it might not take the signal yet, and die of it.
        with contextlib.suppress(KeylaneError, TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                serving = until_ready(self.part.urls, "/healthz")
                await first_of(self._raise_when_ended(), serving)
            if self._identity is not None and self._identity.is_alive():
                os.kill(self._identity.pid, signal.SIGHUP)

    def kill(self) -> None:
        """End it and its workers at once; `stop` still has to be awaited."""
        if self._identity is not None:
            self._identity.send(signal.SIGKILL)


def fate(code: int) -> str:
    """How a child ended, by the exit code of its guardian."""
    by_signal = _BYTE - code
    if by_signal in {int(number) for number in signal.Signals}:
        return f"by {signal.Signals(by_signal).name}"
    return f"with exit code {code}"


async def until_ready(urls: Iterable[str], path: str = "/readyz") -> None:
    """Wait until `path` under each of these URLs says so."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url in urls:
            while not await _is_ready(session, f"{url}{path}"):  # noqa: ASYNC110  not ours to signal
                await asyncio.sleep(_POLL_S)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == _HTTP_OK
    except (aiohttp.ClientError, TimeoutError):
        return False
