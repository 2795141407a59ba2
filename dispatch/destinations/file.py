"""`file:PATH`: one JSON line a delivery, appended."""

from __future__ import annotations

import base64
import errno
import fcntl
import io
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from dispatch.delivery import Delivery
from dispatch.outcome import Delivered, Malformed, Outcome, Unavailable
from keylane.errors import ConfigurationError, ContractError
from keylane.event import rfc3339

_DELIVERED: Final = Delivered()


class FileDestination:
    """Appends `{"id", "user", "payload", "attempt", "position", "delivered_at"}` a line.

    Lines of one moment are written with one call and are with the operating system before any of
    them counts as delivered. Several processes may append to the same file. A payload that is
    not JSON is kept as a string, or as `{"base64": ...}` if it isn't text either.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def _open(self) -> io.FileIO:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return io.FileIO(self._path, "a")
        except OSError as error:
            raise ConfigurationError(
                f"can't append to {self._path}: {error.strerror}; nothing was delivered"
            ) from error

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        lines: list[bytes] = []
        outcomes: list[Outcome] = []
        for delivery in deliveries:
            try:
                lines.append(json_line(delivery))
                outcomes.append(_DELIVERED)
            except ContractError as error:
                outcomes.append(Malformed(str(error)))
        try:
            self._append(b"".join(lines))
        except OSError as error:
            failed = Unavailable(f"can't append to {self._path}: {error.strerror}")
            outcomes = [failed if o is _DELIVERED else o for o in outcomes]
        return outcomes

    def _append(self, data: bytes) -> None:
        """Write all or nothing: half a line would spoil the next one."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            before = os.fstat(self._file.fileno()).st_size
            if self._file.write(data) < len(data):
                os.ftruncate(self._file.fileno(), before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    async def close(self) -> None:
        self._file.close()


def json_line(delivery: Delivery) -> bytes:
    """One delivery as a line. Raises `ContractError` for a message that is no event."""
    event = delivery.event
    return orjson.dumps(
        {
            "id": event.id,
            "user": event.user,
            "payload": _payload(event.payload),
            "attempt": delivery.attempt,
            "position": delivery.position,
            "delivered_at": rfc3339(time.time_ns() // 1_000_000),
            **delivery.purposes(),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _payload(payload: bytes) -> object:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(payload).decode()}
    # Valid JSON has line breaks only between tokens; in a file of lines they must not stay.
    return orjson.Fragment(payload.replace(b"\r", b" ").replace(b"\n", b" "))
