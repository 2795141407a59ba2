"""The broker under `demo` and `up`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from operate import localbroker
from operate.broker.local import LocalBrokerOptions
from operate.localbroker import AUTO, ONE_COPY, STOPPING, STOPPING_FIRST, local_broker


@pytest.mark.parametrize(
    ("writes_archive", "said"), [(False, STOPPING), (True, STOPPING_FIRST)], ids=["later", "first"]
)
def test_a_stop_that_takes_some_seconds_says_why(
    monkeypatch: pytest.MonkeyPatch, writes_archive: bool, said: str
) -> None:
    told: list[str] = []
    run = SimpleNamespace(writes_archive=writes_archive)
    broker: Any = SimpleNamespace(run=run, stop=lambda: told.append("stopped"))
    monkeypatch.setattr(localbroker, "start_local_broker", lambda *_, **__: broker)

    with local_broker(AUTO, LocalBrokerOptions(), told.append) as started:
        assert started is broker

    assert told == [ONE_COPY, said, "stopped"]
