"""The broker that the tests of a run share.

`KEYLANE_TEST_SERVICE_URL` and `KEYLANE_TEST_ADMIN_URL` name one that runs already; else one is
started, and ends with the run. There is no skipping: without a broker these tests fail.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker
from operate.broker.places import cache_dir


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the shared broker is. `started` is the broker itself, `None` for a given one."""

    service_url: str
    admin_url: str
    started: LocalBroker | None = None


@pytest.fixture(scope="session")
def local_broker() -> Iterator[BrokerAddress]:
    """The shared broker; each test takes a topic of its own."""
    service_url = os.environ.get("KEYLANE_TEST_SERVICE_URL")
    admin_url = os.environ.get("KEYLANE_TEST_ADMIN_URL")
    if service_url and admin_url:
        yield BrokerAddress(service_url, admin_url)
        return
    with _start_quickly() as broker:
        yield BrokerAddress(broker.service_url, broker.admin_url, broker)


@pytest.fixture(scope="session")
def _killable_broker() -> Iterator[LocalBroker]:
    with _start_quickly() as broker:
        yield broker


def _start_quickly() -> LocalBroker:
    """One for minutes. The first on a machine ends at once: then all others start sooner."""

    def others_may_start(broker: LocalBroker) -> None:
        if not broker.run.writes_archive:
            fcntl.flock(only_one, fcntl.LOCK_UN)

    options = LocalBrokerOptions(is_short_lived=True)
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
