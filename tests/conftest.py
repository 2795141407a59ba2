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
    "test_send.py",
    "test_worker_pace.py",
)

gc.set_threshold(GARBAGE_AT)

# No test asks a public server anything, and to read all the authorities in whose trust they are
# takes 0.1 s in each process that imports aiohttp.
os.environ.setdefault("SSL_CERT_FILE", os.devnull)

# Each call of the command makes the tree of all commands anew, which takes a tenth of a second.
_command_of = functools.cache(typer.main.get_command)
setattr(typer.main, "get_command", _command_of)  # noqa: B010  not by name: it is a function to mypy
setattr(typer.testing, "_get_command", _command_of)  # noqa: B010  the same


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, or the others would wait for it in the end."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Thousands of tests are no garbage: to look at them again and again takes time."""
    gc.collect()
    gc.freeze()
