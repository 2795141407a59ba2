from __future__ import annotations

import functools
import gc
import os
from typing import Final

import pytest
import typer.main
import typer.testing

pytest_plugins = ["tests.brokers"]

#: New objects until Python looks for garbage, 700 by default; 4 % of the tests' time.
GARBAGE_AT: Final = 20_000
#: Take tens of seconds, in processes of their own or waiting.
_LONGEST: Final = (
    "test_lanes_model.py",
    "test_lanes_mutants.py",
    "test_ingest_sockets.py",
    "test_faults.py",
    "test_secure_pulsar.py",
    "test_publisher_on_pulsar.py",
    "test_send.py",
    "test_worker_pace.py",
)
#: Take some seconds, which is long where others take none.
_LONG: Final = (
    "test_broker_command.py",
    "test_dead_letter.py",
    "test_delivery_store.py",
    "test_demo.py",
    "test_destination_contract.py",
    "test_dlq_command.py",
    "test_doctor.py",
    "test_http_engine.py",
    "test_idempotency_model.py",
    "test_ingest_cloudevents.py",
    "test_ingest_fuzz.py",
    "test_ingest_http.py",
    "test_ingest_kill.py",
    "test_key_shared_contract.py",
    "test_keyshared.py",
    "test_lanes.py",
    "test_lanes_scenarios.py",
    "test_order.py",
    "test_outage.py",
    "test_overseeing.py",
    "test_readme_curl.py",
    "test_replay_command.py",
    "test_scaling.py",
    "test_schema_compatibility.py",
    "test_shutdown.py",
    "test_webhook_credentials.py",
    "test_worker.py",
)

#: Of the tests' time, in which those that wait for a broker have begun.
_WAITING_SHARE: Final = 0.7

gc.set_threshold(GARBAGE_AT)

# No test asks a public server anything, and to read all the authorities in whose trust they are
# takes 0.1 s in each process that imports aiohttp.
os.environ["SSL_CERT_FILE"] = os.devnull

# Each call of the command makes the tree of all commands anew, which takes a tenth of a second.
_command_of = functools.cache(typer.main.get_command)
setattr(typer.main, "get_command", _command_of)  # noqa: B010  not by name: it is a function to mypy
setattr(typer.testing, "_get_command", _command_of)  # noqa: B010  the same


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files: what takes longest begins first, or the others would wait for it in the end.

    Then those that mostly wait take turns with those that compute, so that there is always
    something to compute; they are done a little sooner, because some of them take long.
    """
    files = {item.path: item.path.parent.name == "unit" for item in items}
    places = {path: float(_LONGEST.index(path.name)) for path in files if path.name in _LONGEST}
    others = [path for path in files if path not in places]
    others.sort(key=lambda path: path.name not in _LONG)
    for is_unit, share in ((False, _WAITING_SHARE), (True, 1.0)):
        kind = [path for path in others if files[path] is is_unit]
        for place, path in enumerate(kind):
            places[path] = len(_LONGEST) + share * place / len(kind)
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of tests are no garbage: to look at them again and again takes time."""
    gc.collect()
    gc.freeze()
