"""What the broker's client has to say, among our own log lines.

The client writes its lines itself: to standard output, which belongs to data, or to a file, which
it truncates. So it is given a pipe for a file, and a thread makes log lines of what comes out.
"""

from __future__ import annotations

import functools
import os
import re
import threading

import structlog

log = structlog.get_logger()

_LINE = re.compile(r"\S+ \S+ (?P<level>[A-Z]+) +\[\S+\] (?P<place>\S+) \| (?P<text>.*)")


@functools.cache
def client_log_path() -> str:
    """A path to write to; the thread behind it lives as long as the process."""
    reading, writing = os.pipe()
    threading.Thread(target=_relay, args=(reading,), name="client-log", daemon=True).start()
    return f"/dev/fd/{writing}"


def _relay(descriptor: int) -> None:
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            relay_line(line.rstrip("\n"))


def relay_line(line: str) -> None:
    """Log one line of the client's under its own level; a line of another form is an error."""
    found = _LINE.fullmatch(line)
    if not found:
        log.error("client.reported", text=line)
    elif found["level"] == "WARN":
        log.warning("client.reported", text=found["text"], place=found["place"])
    else:
        log.error("client.reported", text=found["text"], place=found["place"])
