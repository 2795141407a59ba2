"""Processes that a run starts: `keylane ...` as anybody runs it, and the bench's own parts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from bench.errors import BenchError
from bench.machine import children_of
from keylane.sources import ENV_PREFIX
from operate.broker import guardian
from operate.broker.process import ProcessIdentity

_READY_WITHIN_S: Final = 60.0
_STOPPED_WITHIN_S: Final = 40.0
_PART_WITHIN_S: Final = 120.0
_POLL_S: Final = 0.01
_LINES_SHOWN: Final = 12

T = TypeVar("T")


def _environment() -> dict[str, str]:
    """Ours without settings of Keylane: a run is the same whatever is set."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


class Server:
    """A process that serves, behind the guardian that ends it if this process dies.

    It logs JSON lines, in which each of its `processes` tells its URL. The folder of the log goes
    with it.
    """

    def __init__(
        self,
        name: str,
        arguments: Iterable[str],
        log: Path,
        *,
        processes: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Run a module (`-m` comes before `arguments`) with these settings in its environment."""
        self._name = name
        self._log = log
        self._processes = processes
        self._url = ""
        self._connection: http.client.HTTPConnection | None = None
        with log.open("wb") as stderr:
            self._guard = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", guardian.__file__),
                    *(str(os.getpid()), str(log.parent)),
                    *(sys.executable, "-P", "-m", *arguments),
                ],
                cwd=log.parent,
                env={**_environment(), **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)
        self._identity = ProcessIdentity.of(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = self._stop()
        if error is None and code != 0:
            raise self._failure(f"ended with {code}")

    def _stop(self) -> int:
        if self._connection:
            self._connection.close()
        # Not its group: a parent hands the signal to its workers, and a second one aborts.
        if self._identity and self._identity.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        try:
            return self._guard.wait(_STOPPED_WITHIN_S)
        finally:
            if self._identity:
                self._identity.send(signal.SIGKILL)
            self._guard.communicate()

    def url(self) -> str:
        """Where it serves, as soon as all its processes do."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._url:
            urls = list(_urls_in(self._log.read_bytes()))
            if len(urls) >= self._processes:
                self._url = urls[0]
                break
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._failure("did not start in time")
            time.sleep(_POLL_S)
        return self._url

    def pids(self) -> list[int]:
        """Of the process and of those that it started."""
        return [self.pid, *children_of(self.pid)]

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while self._get("/readyz")[0] != http.client.OK:
            self._check_alive()
            if time.monotonic() > deadline:
                raise self._failure("was not ready in time")
            time.sleep(_POLL_S)

    def metrics(self) -> dict[str, float]:
        """Each metric's sum over its labels."""
        status, text = self._get("/metrics")
        if status != http.client.OK:
            self._check_alive()
            raise self._failure(f"answered {status} for its metrics")
        return sums(text)

    def _get(self, path: str) -> tuple[int, str]:
        if self._connection is None:
            parts = urlsplit(self.url())
            self._connection = http.client.HTTPConnection(
                parts.hostname or "", parts.port, timeout=10
            )
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0, ""

    def _check_alive(self) -> None:
        if self._guard.poll() is not None:
            raise self._failure(f"ended by itself with {self._guard.returncode}")

    def _failure(self, what: str) -> BenchError:
        said = _last_lines(self._log.read_text(errors="replace"))
        return BenchError(f"{self._name} {what}. Its log ends:{said}")


class Keylane(Server):
    """One `keylane ...` as anybody runs it."""

    def __init__(
        self, arguments: Sequence[str], log: Path, settings: Mapping[str, str] | None = None
    ) -> None:
        name = " ".join(["keylane", *arguments[:2]])
        arguments = ["operate", *arguments, "--log-format", "json"]
        super().__init__(name, arguments, log, settings=settings)


def _urls_in(log: bytes) -> Iterator[str]:
    for line in log.splitlines():
        told = json.loads(line) if line.startswith(b"{") else {}
        url = told.get("url") or told.get("admin_url")
        if url:
            yield str(url)


def _last_lines(text: str) -> str:
    return "".join(f"\n  {line}" for line in text.splitlines()[-_LINES_SHOWN:])


def sums(text: str) -> dict[str, float]:
    """Read what Prometheus would; the labels are dropped and their values added up."""
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def run_part(
    part: ModuleType, options: msgspec.Struct, result: type[T], within_s: float = _PART_WITHIN_S
) -> T:
    """Run one part to its end, and return what it tells."""
    try:
        done = subprocess.run(
            _part_command(part, options),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,  # a Ctrl-C is ours to handle
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{part.__name__} took more than {within_s:g} s") from error
    if done.returncode:
        said = _last_lines(done.stderr.decode(errors="replace"))
        raise BenchError(f"{part.__name__} failed. It wrote last:{said}")
    return msgspec.json.decode(done.stdout, type=result)


def part_arguments(part: ModuleType, options: msgspec.Struct) -> list[str]:
    """What follows `python -m`."""
    return [part.__name__, msgspec.json.encode(options).decode()]


def _part_command(part: ModuleType, options: msgspec.Struct) -> list[str]:
    return [sys.executable, "-m", *part_arguments(part, options)]


class LivingPart:
    """A part that is told what to do by lines, and tells by lines."""

    def __init__(self, part: ModuleType, options: msgspec.Struct) -> None:
        self._name = part.__name__
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            _part_command(part, options),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self.pid = self._process.pid
        self._rest = b""

    def tell(self, order: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")

    def hear(self, kind: type[T], within_s: float = _PART_WITHIN_S) -> T:
        """The next line that it tells."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._rest:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left_s)[0]:
                raise BenchError(f"{self._name} did not tell of {kind.__name__} in {within_s:g} s")
            piece = self._process.stdout.read(1024 * 1024)
            if not piece:
                raise BenchError(f"{self._name} ended by itself")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return msgspec.json.decode(line, type=kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
