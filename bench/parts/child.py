"""How such a process is told what to do and tells what came of it: one JSON value each way."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Final, TypeVar

import msgspec
import pulsar

_PARENT_CHECK_S: Final = 0.5

T = TypeVar("T")


def begin(kind: type[T]) -> T:
    """The options of this process; from here on it ends when its parent does."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    return msgspec.json.decode(sys.argv[1], type=kind)


def tell(result: msgspec.Struct) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.flush()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def pulsar_client(service_url: str) -> Any:
    # A Python logger would cost most of the rate; the console logger writes to standard output.
    logger = pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    return pulsar.Client(service_url, logger=logger)
