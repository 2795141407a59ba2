"""Start a local broker, by the first way that this machine offers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, Self, TypeAlias

from keylane.errors import BrokerUnavailable
from operate.broker.config import BrokerPorts, LaunchPlan
from operate.broker.container import (
    IMAGE,
    ContainerIdentity,
    ContainerRun,
    EngineRefused,
    engine_answers,
)
from operate.broker.distribution import Progress, find_distribution
from operate.broker.health import is_healthy, wait_healthy
from operate.broker.ports import HOST, choose_port
from operate.broker.process import ProcessIdentity
from operate.broker.standalone import StandaloneRun

HEALTHY_WITHIN_S: Final = 120.0
_STARTS_ON_OTHER_PORTS: Final = 3
_GONE_WITHIN_S: Final = 15.0
# What Java says, what the storage says.
_PORT_TAKEN: Final = ("Address already in use", "Failed to bind")
# A killed broker leaves the lock on its storage's name behind. The next one may take the removal of
# that for the loss of its own, and then loses and takes it for ever, a hundred times a second (as
# in Pulsar's issue 17759, with another cause). After an orderly end none is left.
_LOCK_LOST: Final = b"was invalidated. state Valid"
_LOST_TOO_OFTEN: Final = 3
_LOOKED_AT_FOR_S: Final = 0.3
_STARTS_AFTER_A_KILL: Final = 4


class BrokerRun(Protocol):
    """One broker and the way it is run."""

    @property
    def identity(self) -> ProcessIdentity | ContainerIdentity | None:
        """What another process needs to find this broker again; `None` if it never started."""

    def launch(self) -> None:
        """Start or start again, on the same ports and data; must not wait for readiness."""

    @property
    def writes_archive(self) -> bool:
        """Whether its orderly end leaves an archive, with which the next one starts sooner."""

    def came_up(self) -> None:
        """Told that it is healthy: what it has loaded by now, the next one will need as well."""

    def is_alive(self) -> bool: ...

    def send(self, signum: signal.Signals) -> None:
        """Signal the broker; does nothing if it is gone."""

    def wait_gone(self, within_s: float) -> bool: ...

    def halt(self) -> None:
        """Stop it for certain, in a way that `launch` can bring it back."""

    def end(self) -> None:
        """Stop it for certain and leave nothing behind but the data folder."""

    def log_file(self) -> Path:
        """Where a person finds the log; must still be there after `end`."""

    def admin_tool(self) -> Path | None:
        """Pulsar's own `pulsar-admin`; `None` if it is not on this machine's disk."""

    def pulsar_admin(self, *arguments: str) -> subprocess.CompletedProcess[str]: ...


class PortLost(BrokerUnavailable):
    """Another program took a port between the choice and the start."""


MakeRun: TypeAlias = Callable[[LaunchPlan], BrokerRun]


@dataclass(frozen=True, slots=True)
class LocalBrokerOptions:
    service_port: int = 0  # 0: any free one
    admin_port: int = 0
    data_dir: Path | None = None  # None: a temporary one, removed at the end
    extra_conf: Mapping[str, str] = field(default_factory=dict)
    outlives_owner: bool = False  # for `keylane broker start`; else it dies with this process
    is_short_lived: bool = False  # for minutes and few events: it starts sooner, and is slower
    # `warn` saves an eighth of the start. Who kills a broker and starts it again needs `info`: by
    # such a line it is seen that it fights over the dead one's lock.
    log_level: Literal["info", "warn"] = "info"


class LocalBroker:
    """A broker that we started. Close it with `stop`, or use it as a context manager."""

    def __init__(self, run: BrokerRun, ports: BrokerPorts, data: DataFolder) -> None:
        self.run = run
        self.ports = ports
        self.data = data

    @property
    def service_url(self) -> str:
        return f"pulsar://{HOST}:{self.ports.service}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.ports.admin}"

    def is_healthy(self) -> bool:
        return self.run.is_alive() and is_healthy(self.ports.service, self.ports.admin)

    def wait_healthy(self, within_s: float = HEALTHY_WITHIN_S) -> None:
        """Raises as soon as it has died, or when the time is over."""
        if not wait_healthy(self.ports.service, self.ports.admin, self.run.is_alive, within_s):
            raise BrokerUnavailable(self._why_not_healthy(within_s))
        self.run.came_up()

    def stop(self) -> None:
        """End it for certain; a temporary data folder goes too. May be called again."""
        self.run.end()
        self.data.remove_if_temporary()

    def kill(self) -> None:
        """SIGKILL, as a power cut would; `restart` brings it back."""
        self.run.send(signal.SIGKILL)
        self.run.wait_gone(_GONE_WITHIN_S)

    def terminate(self) -> None:
        """SIGTERM: an orderly end; `restart` brings it back."""
        self.run.send(signal.SIGTERM)
        self.run.wait_gone(_GONE_WITHIN_S)

    def pause(self) -> None:
        """Freeze it, connections and all."""
        self.run.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.run.send(signal.SIGCONT)

    def restart(self) -> list[tuple[float, float]]:
        """Bring it back on the same ports and data; ends it first if it still runs.

        Returns when it was ended again though it was healthy, because it fought itself: from and to
        on the monotonic clock, in seconds. Clients may have been connected to it.
        """
        ended: list[tuple[float, float]] = []
        for _ in range(_STARTS_AFTER_A_KILL):
            began_at = time.monotonic()
            self.run.halt()
            ended.append((began_at, time.monotonic()))
            self.run.launch()
            self.wait_healthy()
            if not self.fights_itself():
                break
        return ended[1:]

    def fights_itself(self) -> bool:
        """Whether it is healthy, but busy with a lock that a killed one left behind.

        Takes a moment.
        """
        before = self._times_lost()
        if not before:
            return False
        time.sleep(_LOOKED_AT_FOR_S)
        return self._times_lost() - before >= _LOST_TOO_OFTEN

    def _times_lost(self) -> int:
        return self.run.log_file().read_bytes().count(_LOCK_LOST)

    def admin_tool(self) -> Path | None:
        """Path of `pulsar-admin`; `None` where Docker runs the broker (use `pulsar_admin`)."""
        return self.run.admin_tool()

    def pulsar_admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Pulsar's own tool against this broker. Takes seconds: it starts a Java."""
        return self.run.pulsar_admin(*arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _why_not_healthy(self, within_s: float) -> str:
        fate = f"was not ready within {within_s:.0f} s" if self.run.is_alive() else "died"
        lines = "\n".join(f"  {line}" for line in telling_lines(self.run.log_file()))
        return (
            f"The local broker {fate} while starting. Its log ends with:\n{lines}\n"
            f"The whole log: {self.run.log_file()}"
        )


@dataclass(frozen=True, slots=True)
class DataFolder:
    path: Path
    is_temporary: bool

    @classmethod
    def at(cls, given: Path | None) -> Self:
        if given is None:
            return cls(Path(tempfile.mkdtemp(prefix="keylane-broker-")).resolve(), True)
        given.mkdir(parents=True, exist_ok=True)
        return cls(given.resolve(), False)

    def remove_if_temporary(self) -> None:
        if self.is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)

    def keep_only_files_if_temporary(self) -> None:
        """After a failed start: the log stays for whoever was told of it."""
        if self.is_temporary:
            for folder in filter(Path.is_dir, self.path.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def start_local_broker(
    options: LocalBrokerOptions = LocalBrokerOptions(),
    *,
    progress: Progress = lambda _line: None,
    launched: Callable[[LocalBroker], None] = lambda _broker: None,
) -> LocalBroker:
    """A healthy broker on this machine.

    `launched` is told of the broker before it is healthy, so that a broker which is to outlive
    this process is on record from its first moment.
    """
    if engine_answers():
        try:
            progress(f"Docker runs here; using {IMAGE} (pulled at the first use)")
            return _start_with(ContainerRun, options, progress, launched)
        except EngineRefused as failure:
            progress(f"{failure}; trying another way")
    home = find_distribution(progress)
    return _start_with(partial(StandaloneRun, home), options, progress, launched)


def _start_with(
    make_run: MakeRun,
    options: LocalBrokerOptions,
    progress: Progress,
    launched: Callable[[LocalBroker], None],
) -> LocalBroker:
    for starts_left in reversed(range(_STARTS_ON_OTHER_PORTS)):
        broker = _prepare(make_run, options)
        try:
            return _start(broker, progress, launched)
        except PortLost:
            if not starts_left:
                raise
            progress("Another program took the port meanwhile; trying another one")
    raise AssertionError  # the last turn returned or raised


def _start(
    broker: LocalBroker, progress: Progress, launched: Callable[[LocalBroker], None]
) -> LocalBroker:
    progress(f"Starting Apache Pulsar on port {broker.ports.service}")
    try:
        broker.run.launch()
        launched(broker)
        broker.wait_healthy()
        if broker.fights_itself():
            broker.restart()
    except EngineRefused:
        broker.stop()
        raise
    except BrokerUnavailable as failure:
        log = broker.run.log_file()
        broker.run.end()
        if log.exists() and any(
            phrase in log.read_text(errors="replace") for phrase in _PORT_TAKEN
        ):
            broker.data.remove_if_temporary()
            raise PortLost(str(failure)) from failure
        broker.data.keep_only_files_if_temporary()
        raise
    except BaseException:  # Ctrl-C above all: nothing may stay behind
        broker.stop()
        raise
    return broker


def telling_lines(log: Path, at_most: int = 6) -> list[str]:
    """The lines of a broker's log that say why it stopped; the last ones if none does."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(w in line for w in ("ERROR", "Caused by", "Error:"))]
    return (telling or lines)[-at_most:]


def _prepare(make_run: MakeRun, options: LocalBrokerOptions) -> LocalBroker:
    ports = _choose_ports(options)
    data = DataFolder.at(options.data_dir)
    plan = LaunchPlan(
        ports,
        data.path,
        data.is_temporary,
        options.outlives_owner,
        options.extra_conf,
        options.is_short_lived,
        options.log_level,
    )
    return LocalBroker(make_run(plan), ports, data)


def _choose_ports(options: LocalBrokerOptions) -> BrokerPorts:
    service = choose_port(options.service_port, "--service-port")
    admin = choose_port(options.admin_port, "--admin-port", taken=frozenset({service}))
    bookie = choose_port(0, "", taken=frozenset({service, admin}))
    return BrokerPorts(service, admin, bookie)
