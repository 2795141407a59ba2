"""The brokers that run in the background, on record so that any later command finds them.

One JSON file a broker, named by its service port, in `$XDG_STATE_HOME/keylane/brokers`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from keylane.errors import BrokerUnavailable
from operate.broker.container import ContainerIdentity
from operate.broker.health import is_healthy
from operate.broker.local import LocalBroker
from operate.broker.places import records_dir
from operate.broker.ports import HOST
from operate.broker.process import ProcessIdentity

_STOP_GRACE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class BrokerRecord:
    """What is needed to find, check and end a broker of the background."""

    service_port: int
    admin_port: int
    data_dir: str
    data_is_temporary: bool
    process: ProcessIdentity | None
    container: ContainerIdentity | None

    @classmethod
    def of(cls, broker: LocalBroker) -> Self:
        identity = broker.run.identity
        if identity is None:
            raise BrokerUnavailable("The local broker died as soon as it was started.")
        return cls(
            broker.ports.service,
            broker.ports.admin,
            str(broker.data.path),
            broker.data.is_temporary,
            identity if isinstance(identity, ProcessIdentity) else None,
            identity if isinstance(identity, ContainerIdentity) else None,
        )

    @property
    def service_url(self) -> str:
        return f"pulsar://{HOST}:{self.service_port}"

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.admin_port}"

    @property
    def identity(self) -> ProcessIdentity | ContainerIdentity | None:
        return self.process or self.container

    def is_alive(self) -> bool:
        return self.identity is not None and self.identity.is_alive()

    def is_healthy(self) -> bool:
        return self.is_alive() and is_healthy(self.service_port, self.admin_port)

    def save(self) -> None:
        path = _path(self.service_port)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2))
        partial.rename(path)

    def end(self) -> None:
        """End the broker if it runs, and what is left of it if it does not."""
        if self.identity is not None:
            self.identity.end(_STOP_GRACE_S)
        if self.is_alive():
            raise BrokerUnavailable(f"The local broker on port {self.service_port} does not end.")
        if self.data_is_temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)
        self.forget()

    def forget(self) -> None:
        """Take it off the record, running or not."""
        _path(self.service_port).unlink(missing_ok=True)


def find_record(service_port: int) -> BrokerRecord | None:
    return _load(_path(service_port))


def all_records() -> list[BrokerRecord]:
    """By service port, whether they still run or not."""
    loaded = [_load(path) for path in records_dir().glob("*.json")]
    return sorted((record for record in loaded if record), key=lambda r: r.service_port)


@contextlib.contextmanager
def held(service_port: int) -> Iterator[None]:
    """Hold the port's record: of two commands at once, one waits for the other to finish."""
    lock = records_dir() / f"{service_port}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _path(service_port: int) -> Path:
    return records_dir() / f"{service_port}.json"


def _load(path: Path) -> BrokerRecord | None:
    try:
        fields = json.loads(path.read_text())
        process, container = fields.pop("process"), fields.pop("container")
        return BrokerRecord(
            **fields,
            process=ProcessIdentity(**process) if process else None,
            container=ContainerIdentity(**container) if container else None,
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, or not of this version
        return None
