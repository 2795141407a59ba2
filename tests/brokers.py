"""The broker that all tests of a run share, in however many processes they run.

`KEYLANE_TEST_SERVICE_URL` and `KEYLANE_TEST_ADMIN_URL` name one that runs already; else the first
process that needs one starts it, and ends it when no other uses it any more. There is no skipping:
without a broker these tests fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from operate.broker.local import (
    LocalBroker,
    LocalBrokerOptions,
    start_local_broker,
    telling_lines,
)
from operate.broker.places import cache_dir
from operate.broker.process import ProcessIdentity


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is.

    `pid` is that of a Java which a process of this run has started, `started` is the broker itself
    if this process did.
    """

    service_url: str
    admin_url: str
    pid: int | None = None
    started: LocalBroker | None = None

    @classmethod
    def of(cls, broker: LocalBroker) -> BrokerAddress:
        identity = broker.run.identity
        pid = identity.pid if isinstance(identity, ProcessIdentity) else None
        return cls(broker.service_url, broker.admin_url, pid, broker)


class SharedBroker:
    """One broker for all processes that name the same folder."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "broker.json"
        self._starting = (folder / "broker.starting").open("w")
        self._using = (folder / "broker.using").open("w")
        self._started: LocalBroker | None = None

    def address(self) -> BrokerAddress:
        """Where it is; starts it if it does not run yet, or any more."""
        fcntl.flock(self._starting, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._using, fcntl.LOCK_SH)
            if self._address.exists():
                return BrokerAddress(**json.loads(self._address.read_text()))
            return self._start()
        finally:
            fcntl.flock(self._starting, fcntl.LOCK_UN)

    def _start(self) -> BrokerAddress:
        self._started = start_quickly(LocalBrokerOptions(is_short_lived=True, log_level="warn"))
        address = BrokerAddress.of(self._started)
        if self._started.admin_tool() is not None:
            self._address.write_text(json.dumps(asdict(replace(address, started=None))))
        else:  # a container's, which only who has started it can run: everybody has one of his own
            fcntl.flock(self._using, fcntl.LOCK_UN)
        return address

    def leave(self) -> None:
        """End it if it was started here, as soon as nobody else uses it."""
        if self._started:
            fcntl.flock(self._using, fcntl.LOCK_EX)
            self._address.unlink(missing_ok=True)
            if not self._started.run.is_alive():
                lines = telling_lines(self._started.run.log_file(), at_most=20)
                _tell("\n".join(["The shared broker died while tests used it. It said:", *lines]))
            self._started.stop()
        self._using.close()
        self._starting.close()


_SHARED: Final = pytest.StashKey[SharedBroker]()


@pytest.fixture(scope="session")
def local_broker(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> BrokerAddress:
    """The shared broker; each test takes a topic of its own."""
    service_url = os.environ.get("KEYLANE_TEST_SERVICE_URL")
    admin_url = os.environ.get("KEYLANE_TEST_ADMIN_URL")
    if service_url and admin_url:
        return BrokerAddress(service_url, admin_url)
    of_process = tmp_path_factory.getbasetemp()
    of_run = of_process.parent if "PYTEST_XDIST_WORKER" in os.environ else of_process
    shared = pytestconfig.stash[_SHARED] = SharedBroker(of_run)
    return shared.address()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Not the end of a fixture: others' tests would have to end in the time of this one's last."""
    if shared := session.config.stash.get(_SHARED, None):
        shared.leave()


@pytest.fixture(scope="session")
def _killable_broker() -> Iterator[LocalBroker]:
    with start_quickly(LocalBrokerOptions(is_short_lived=True)) as broker:
        yield broker


def start_quickly(options: LocalBrokerOptions) -> LocalBroker:
    """Start one. The first on a machine ends at once: then all others start sooner."""

    def others_may_start(broker: LocalBroker) -> None:
        if not broker.run.writes_archive:
            fcntl.flock(only_one, fcntl.LOCK_UN)

    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "first-broker.lock").open("w") as only_one:
        fcntl.flock(only_one, fcntl.LOCK_EX)
        broker = start_local_broker(options, progress=_tell, launched=others_may_start)
        if not broker.run.writes_archive:
            return broker
        broker.stop()
    return start_local_broker(options)


@pytest.fixture
def own_broker(_killable_broker: LocalBroker) -> LocalBroker:
    """One to stop, kill and start again, while others use the shared one; healthy at the start."""
    if not _killable_broker.is_healthy():
        _killable_broker.restart()
    return _killable_broker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The time limit is for tests, not for the start of a broker in the first one's set-up."""
    for item in items:
        if _uses_broker(item):
            limit = item.get_closest_marker("timeout")
            arguments, options = (limit.args, limit.kwargs) if limit else ((), {})
            marker = pytest.mark.timeout(*arguments, **{**options, "func_only": True})
            item.add_marker(marker, append=False)


def _uses_broker(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return "local_broker" in fixtures or item.get_closest_marker("real_broker") is not None


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
