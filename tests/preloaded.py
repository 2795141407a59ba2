"""Imports what `keylane` and the lanes' schedules need, and begins nothing."""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_TASKS = Path("/proc/self/task")
#: Found by their names when a server starts.
_BY_NAME = (
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
)
_OF_TESTS = ("tests.unit.schedules", "tests.unit.lanes_scenarios")
#: Forks of a process that has it draw the same random names, which two readers must not have.
_CLIENT = "pulsar"


def _modules(package: str) -> list[str]:
    paths = (path.relative_to(_ROOT) for path in (_ROOT / package).rglob("*.py"))
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def _import_all() -> None:
    ours = [name for of in ("keylane", "ingest", "dispatch", "operate") for name in _modules(of)]
    for name in (*ours, *_BY_NAME, *_OF_TESTS):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != _CLIENT:
                raise


assert _CLIENT not in sys.modules
# Whoever imports None finds no such module.
sys.modules[_CLIENT] = None  # type: ignore[assignment]
_import_all()
del sys.modules[_CLIENT]
# A fork has only the thread that made it, and no library may have begun others.
assert not _TASKS.exists() or len(list(_TASKS.iterdir())) == 1
# Forks share what they never write to.
gc.collect()
gc.freeze()
