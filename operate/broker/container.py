"""A broker run by the Docker engine of this machine."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from keylane.errors import BrokerUnavailable
from operate.broker.config import MEMORY, LaunchPlan, broker_settings
from operate.broker.ports import HOST

IMAGE: Final = "apachepulsar/pulsar:4.0.13"
STOP_GRACE_S: Final = 10
ENGINE_ANSWERS_WITHIN_S: Final = 2.0

_ENTRY: Final = (
    "bin/apply-config-from-env.py conf/standalone.conf && exec bin/pulsar standalone -nfw -nss"
)
_POLL_S: Final = 0.1


def engine_answers() -> bool:
    """Whether a Docker engine runs on this machine.

    Asked on the bare socket first: the client library takes long to say no, and leaves sockets
    open. An engine on another machine does not count: its ports are not here.
    """
    try:
        from testcontainers.core.docker_client import get_docker_host
    except ImportError:  # the extra `local` is not installed
        return False
    url = urlsplit(get_docker_host() or "unix:///var/run/docker.sock")
    if url.scheme != "unix":
        return False
    try:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(ENGINE_ANSWERS_WITHIN_S)
            engine.connect(url.path)
            engine.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            return engine.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


class EngineRefused(BrokerUnavailable):
    """The Docker engine answers, but does not run the broker."""


def container_environment(plan: LaunchPlan) -> dict[str, str]:
    """The settings as the image takes them.

    The broker listens on the same port numbers inside as outside, so that the address it tells to
    clients is right on both sides.
    """
    settings = broker_settings(plan.ports, plan.extra_conf)
    return {
        "PULSAR_MEM": MEMORY,
        "PULSAR_GC": plan.java_flags,
        "PULSAR_LOG_LEVEL": plan.log_level,
        **{f"PULSAR_PREFIX_{name}": value for name, value in settings.items()},
    }


@dataclass(frozen=True, slots=True)
class ContainerIdentity:
    """One container, found again by its id from any process."""

    container_id: str

    def is_alive(self) -> bool:
        container = self._find()
        return container is not None and container.status in {"running", "paused"}

    def end(self, grace_s: float) -> None:
        """Stop and remove it."""
        container = self._find()
        if container is not None:
            container.stop(timeout=round(grace_s))
            container.remove(force=True, v=True)

    def send(self, signum: signal.Signals) -> None:
        container = self._find()
        if container is not None and container.status in {"running", "paused"}:
            container.kill(signal=signum.name)

    def start(self) -> None:
        self._get().start()

    def logs(self) -> bytes:
        container = self._find()
        return b"" if container is None else bytes(container.logs())

    def execute(self, command: list[str]) -> tuple[int, bytes, bytes]:
        code, (stdout, stderr) = self._get().exec_run(command, demux=True)
        return code, stdout or b"", stderr or b""

    def _get(self) -> Any:
        return _client().containers.get(self.container_id)

    def _find(self) -> Any:
        from docker.errors import (  # type: ignore[import-untyped]  # it ships no types
            DockerException,
        )

        try:
            return self._get()
        except DockerException:  # removed, or the engine is down and its containers with it
            return None


@functools.cache  # asked many times a second while a broker starts
def _client() -> Any:
    from testcontainers.core.docker_client import DockerClient

    return DockerClient().client


class ContainerRun:
    """The image of Apache Pulsar with our settings."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._identity: ContainerIdentity | None = None

    @property
    def identity(self) -> ContainerIdentity | None:
        return self._identity

    def launch(self) -> None:
        from docker.errors import DockerException
        from testcontainers.core.exceptions import (
            ContainerConnectException,
            ContainerStartException,
        )

        refusals = (DockerException, ContainerConnectException, ContainerStartException, OSError)
        try:
            if self._identity is None:
                self._identity = ContainerIdentity(self._create())
            else:
                self._identity.start()
        except refusals as failure:
            raise EngineRefused(f"Docker could not run {IMAGE}: {failure}") from failure

    @property
    def writes_archive(self) -> bool:
        return False

    def came_up(self) -> None:
        """Nothing of the container is kept for the next one."""

    def is_alive(self) -> bool:
        return self._identity is not None and self._identity.is_alive()

    def send(self, signum: signal.Signals) -> None:
        if self._identity is not None:
            self._identity.send(signum)

    def wait_gone(self, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def halt(self) -> None:
        """Stop it, but keep the container: its data is inside."""
        self.send(signal.SIGTERM)
        if not self.wait_gone(STOP_GRACE_S):
            self.send(signal.SIGKILL)
            self.wait_gone(STOP_GRACE_S)

    def end(self) -> None:
        if self._identity is not None:
            self._identity.end(STOP_GRACE_S)
            self._identity = None

    def log_file(self) -> Path:
        """A copy of the container's log: it must outlive the container."""
        copy = self._plan.data_dir / "broker.log"
        if self._identity is not None:
            copy.write_bytes(self._identity.logs())
        return copy

    def admin_tool(self) -> Path | None:
        return None

    def pulsar_admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        url = f"http://{HOST}:{self._plan.ports.admin}"
        command = ["bin/pulsar-admin", "--admin-url", url, *arguments]
        if self._identity is None:
            return subprocess.CompletedProcess(command, 1, "", "The broker is stopped.")
        code, stdout, stderr = self._identity.execute(command)
        return subprocess.CompletedProcess(command, code, stdout.decode(), stderr.decode())

    def _create(self) -> str:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer

        if self._plan.outlives_owner:
            # The reaper, a second container, would remove the broker as soon as we end.
            testcontainers_config.ryuk_disabled = True
        container = DockerContainer(IMAGE, env=container_environment(self._plan))
        container.with_command(["sh", "-c", _ENTRY])
        for port in (self._plan.ports.service, self._plan.ports.admin):
            # Only for this machine; `with_bind_ports` takes no address.
            container.ports[f"{port}/tcp"] = (HOST, port)  # type: ignore[assignment]  # typed narrower than what it passes on
        if not self._plan.data_is_temporary:
            container.with_volume_mapping(str(self._plan.data_dir), "/pulsar/data", "rw")
            # Ours, or the files would belong to nobody here; the image serves any user in group 0.
            container.with_kwargs(user=f"{os.getuid()}:0")
        try:
            container_id = container.start().get_container_id()
        except BaseException:
            container.stop()  # created, perhaps, and then not started
            raise
        container.get_docker_client().client.close()
        return container_id
