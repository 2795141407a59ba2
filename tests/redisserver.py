"""A Redis server for tests: real, on a free port, in a folder of its own.

The program is the one on PATH, else the one inside a Maven artifact, kept in the user's cache.
There is no skipping: without either these tests fail.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from operate.broker.places import cache_dir

ARTIFACT = "com.github.codemonstur:embedded-redis:1.4.3"
#: Programs in the artifact, by system and processor.
_PROGRAMS = {
    ("Linux", "x86_64"): "redis-server-6.2.6-v5-linux-amd64",
    ("Linux", "aarch64"): "redis-server-6.2.7-linux-arm64",
    ("Darwin", "x86_64"): "redis-server-6.2.6-v5-darwin-amd64",
    ("Darwin", "arm64"): "redis-server-6.2.6-v5-darwin-arm64",
}
_START_S = 15.0


class RedisServer:
    """One server; keeps nothing on disk, so whoever stops it loses what it held."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        return f"unix://{self._folder / 'redis.sock'}"

    def start(self) -> None:
        """Start it, again on the same port; returns when it answers."""
        log = self._folder / "redis.log"
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "unixsocket": self._folder / "redis.sock",
            "save": "",
            "appendonly": "no",
            "dir": self._folder,
            "logfile": log,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments = [part for argument in arguments for part in argument.split("=", 1)]
        self._process = subprocess.Popen([redis_program(), *arguments], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text() if log.is_file() else "nothing"
                raise AssertionError(f"Redis did not start; it said: {said}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in good order."""
        self._end("terminate")

    def kill(self) -> None:
        """End it at once."""
        self._end("kill")

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            process.wait()


@pytest.fixture
def redis_server(
    redis_program_is_there: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A server of the test's own, which it may stop, kill and start."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_program_is_there() -> None:
    """Fetches it, if need be, before the time limit of a test runs."""
    redis_program()


def redis_program() -> str:
    """The path of a redis-server; downloads one (some 20 MB) if there is none yet."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    program = cache_dir() / f"redis-{ARTIFACT.rsplit(':', 1)[1]}" / "redis-server"
    program.parent.mkdir(parents=True, exist_ok=True)
    with program.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            _fetch(program)
    return str(program)


def _fetch(program: Path) -> None:
    """Fetch the artifact and unpack `program`, which appears whole or not at all."""
    inside = _PROGRAMS.get((platform.system(), platform.machine()))
    maven = shutil.which("mvn")
    if inside is None or maven is None:
        raise AssertionError("Install redis-server, or Maven (mvn) so that it can be downloaded.")
    sys.stderr.write("Downloading redis-server with Maven (once)\n")
    folder = program.parent
    subprocess.run(
        [
            maven,
            "--batch-mode",
            "--quiet",
            "--strict-checksums",
            "dependency:copy",
            f"-Dartifact={ARTIFACT}",
            f"-DoutputDirectory={folder}",
        ],
        cwd=folder,  # a pom.xml in the working folder must not matter
        stdin=subprocess.DEVNULL,
        check=True,
    )
    archive = next(folder.glob("embedded-redis-*.jar"))
    partial = program.with_suffix(".partial")
    with zipfile.ZipFile(archive) as jar:
        name = next(name for name in jar.namelist() if name.rsplit("/", 1)[-1] == inside)
        partial.write_bytes(jar.read(name))
    partial.chmod(0o755)
    partial.replace(program)
    archive.unlink()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
