"""Is a broker ready to be used?"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable
from typing import Final

from operate.broker.ports import HOST

_POLL_S: Final = 0.1
_ANSWER_WITHIN_S: Final = 5.0


def is_healthy(service_port: int, admin_port: int) -> bool:
    """Whether the broker of these two ports can store and deliver, and its namespace exists."""
    if _get(admin_port, "/admin/v2/brokers/health") != b"ok":
        return False
    namespaces = _get(admin_port, "/admin/v2/namespaces/public")
    if namespaces is None or "public/default" not in json.loads(namespaces):
        return False
    return service_port == _service_port_behind(admin_port)


def _service_port_behind(admin_port: int) -> int | None:
    """Of two brokers that drew one admin port the other one may have got it."""
    told = _get(admin_port, "/admin/v2/brokers/configuration/runtime")
    # As Java prints it: Optional[6650].
    found = re.search(r"\d+", json.loads(told)["brokerServicePort"]) if told else None
    return int(found[0]) if found else None


def wait_healthy(
    service_port: int, admin_port: int, is_alive: Callable[[], bool], within_s: float
) -> bool:
    """Wait until it is healthy; false when it died or the time is over."""
    deadline = time.monotonic() + within_s
    while not is_healthy(service_port, admin_port):
        if not is_alive() or time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _get(port: int, path: str) -> bytes | None:
    # Not urllib: a proxy from the environment has no business between us and this machine.
    connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_WITHIN_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
