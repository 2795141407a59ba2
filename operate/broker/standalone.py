"""A broker run from a Pulsar distribution, as a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keylane.errors import BrokerUnavailable
from operate import interrupt
from operate.broker import guardian
from operate.broker.archive import WRITTEN_WITHIN_S, ClassArchive
from operate.broker.config import (
    COLLECTOR,
    FOR_A_SHORT_LIFE,
    MEMORY,
    LaunchPlan,
    broker_settings,
    process_settings,
    render_standalone_conf,
)
from operate.broker.java import find_java_home
from operate.broker.places import path_without_spaces
from operate.broker.ports import HOST
from operate.broker.process import ProcessIdentity

STOP_GRACE_S: Final = 10.0
ADMIN_TOOL_WITHIN_S: Final = 60.0

_TOOL_MEMORY: Final = "-Xmx128m"
_PULSARS_OWN_OPTIONS: Final = (  # bin/pulsar's own, which setting PULSAR_EXTRA_OPTS replaces
    "-Dpulsar.allocator.exit_on_oom=true -Dio.netty.recycler.maxCapacityPerThread=4096"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """The two things that are needed to run Pulsar."""

    home: Path
    java_home: Path

    def environment(self, data_dir: Path, memory: str, flags: str) -> dict[str, str]:
        """Ours without what could turn Pulsar's scripts to another installation."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PULSAR_", "BOOKIE_"))
        }
        return inherited | {
            "JAVA_HOME": str(path_without_spaces(self.java_home)),
            "PULSAR_MEM": memory,
            "PULSAR_GC": flags,
            "PULSAR_GC_LOG": "-Xlog:disable",
            # A killed Java leaves its unpacked libraries behind: they go with the data folder.
            "PULSAR_EXTRA_OPTS": f"{_PULSARS_OWN_OPTIONS} -Djava.io.tmpdir={data_dir / 'tmp'}",
            "PULSAR_LOG_DIR": str(data_dir / "logs"),
        }


class StandaloneRun:
    """`bin/pulsar standalone` on one data folder."""

    def __init__(self, home: Path, plan: LaunchPlan) -> None:
        self._installation = Installation(home, find_java_home())
        self._plan = plan
        self._archive = ClassArchive(home, self._installation.java_home.resolve())
        # Who stops another process's broker is not to wait until one is written.
        self.writes_archive = not plan.outlives_owner and self._archive.can_be_written()
        self._came_up = False
        self._data_dir = path_without_spaces(plan.data_dir)
        self._log_file = self._data_dir / "broker.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: ProcessIdentity | None = None

    @property
    def identity(self) -> ProcessIdentity | None:
        """The broker's process; `None` before the first launch, and if it died at once."""
        return self._identity

    def launch(self) -> None:
        """Start the process; returns before the broker is ready."""
        self._reap()
        command = self._write_command()
        env = self._environment()
        with self._log_file.open("wb") as log, interrupt.held_back():
            self._child = (
                _spawn_detached(command, env, log.fileno())
                if self._plan.outlives_owner
                else _spawn_guarded(command, env, log.fileno(), self._folder_to_remove())
            )
        self._identity = ProcessIdentity.of(_broker_pid(self._child))

    def came_up(self) -> None:
        self._came_up = True

    def is_alive(self) -> bool:
        if self._child is not None:
            self._child.poll()  # or it would stay a zombie
        return self._identity is not None and self._identity.is_alive()

    def send(self, signum: signal.Signals) -> None:
        if self._identity is not None:
            self._identity.send(signum)

    def wait_gone(self, within_s: float) -> bool:
        return self._identity is None or self._identity.wait_gone(within_s)

    def halt(self) -> None:
        self.end()

    def end(self) -> None:
        if self._identity is not None:
            self._end_and_keep_archive(self._identity)
        elif self._child is not None:  # interrupted before its guardian told the pid
            self._child.terminate()
        self._reap()

    def log_file(self) -> Path:
        return self._log_file

    def admin_tool(self) -> Path:
        return self._installation.home / "bin" / "pulsar-admin"

    def pulsar_admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(self.admin_tool()),
                "--admin-url",
                f"http://{HOST}:{self._plan.ports.admin}",
                *arguments,
            ],
            env=self._installation.environment(
                self._data_dir, _TOOL_MEMORY, f"{COLLECTOR} {FOR_A_SHORT_LIFE}"
            ),
            capture_output=True,
            text=True,
            timeout=ADMIN_TOOL_WITHIN_S,
            check=False,
        )

    def _end_and_keep_archive(self, broker: ProcessIdentity) -> None:
        is_worth_it = self.writes_archive and self._came_up and broker.is_alive()
        broker.end(WRITTEN_WITHIN_S if is_worth_it else STOP_GRACE_S)
        if is_worth_it:
            self._archive.keep(self._data_dir)
            self.writes_archive = False

    def _environment(self) -> dict[str, str]:
        env = self._installation.environment(self._data_dir, MEMORY, self._plan.java_flags)
        env["PULSAR_LOG_LEVEL"] = self._plan.log_level
        return self._archive.added_to(env, self._data_dir, writes=self.writes_archive)

    def _write_command(self) -> list[str]:
        home, data = self._installation.home, self._data_dir
        conf = data / "standalone.conf"
        (data / "tmp").mkdir(exist_ok=True)
        shipped = (home / "conf" / "standalone.conf").read_text()
        settings = process_settings() | broker_settings(self._plan.ports, self._plan.extra_conf)
        conf.write_text(render_standalone_conf(shipped, settings))
        return [
            str(home / "bin" / "pulsar"),
            "standalone",
            "--no-functions-worker",
            "--no-stream-storage",
            *("--config", str(conf)),
            *("--metadata-dir", str(data / "metadata")),
            *("--bookkeeper-dir", str(data / "bookkeeper")),
            *("--bookkeeper-port", str(self._plan.ports.bookie)),
        ]

    def _folder_to_remove(self) -> str:
        return str(self._data_dir) if self._plan.data_is_temporary else ""

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait(STOP_GRACE_S)  # the broker is gone, so its guardian goes
            if self._child.stdout is not None:
                self._child.stdout.close()
            self._child = None


def _spawn_detached(command: list[str], env: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _spawn_guarded(
    command: list[str], env: dict[str, str], log: int, folder_to_remove: str
) -> subprocess.Popen[bytes]:
    guard = [sys.executable, "-I", "-S", guardian.__file__, str(os.getpid()), folder_to_remove]
    return subprocess.Popen(
        [*guard, *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # a Ctrl-C in the terminal is the owner's to handle
    )


def _broker_pid(child: subprocess.Popen[bytes]) -> int:
    if child.stdout is None:
        return child.pid
    told = child.stdout.readline()
    if not told:
        raise BrokerUnavailable("The local broker could not be started: its guardian died.")
    return int(told)
