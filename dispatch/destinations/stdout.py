"""`stdout:` writes the same JSON line as `file:`, for the next program of a pipe.

A pipe whose reader is slow is full sooner or later. Waiting for it would stop the whole worker, so
a line is written only as far as there is room; what does not fit is worth another attempt. A line
that could be begun only is ended before any other: there is no half line among those read.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Final

from dispatch.delivery import Delivery
from dispatch.destinations.file import json_line
from dispatch.destinations.opening import Opening
from dispatch.outcome import Delivered, Malformed, Outcome, Unavailable
from keylane.errors import ConfigurationError, ContractError

STANDARD_OUTPUT: Final = 1
#: As much a pipe takes at once without waiting when it says that it has room, and without mixing
#: it with what other processes write.
_PIECE_BYTES: Final = select.PIPE_BUF
#: How long a line that is begun may wait for room, for its next piece.
_WAIT_MS: Final = 20

_DELIVERED: Final = Delivered()
_FULL: Final = Unavailable(
    "standard output has no room now: its reader is slow", is_down=True, is_overload=True
)


class StdoutDestination:
    """Writes a line a delivery to a file descriptor, which stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        #: The end of a line that is begun.
        self._rest = b""

    def attempt_all(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        return [self._attempt(delivery) for delivery in deliveries]

    def _attempt(self, delivery: Delivery) -> Outcome:
        try:
            line = json_line(delivery)
        except ContractError as error:
            return Malformed(str(error))
        try:
            if not self._end_line() or not self._has_room(0):
                return _FULL
            self._rest = line
            return _DELIVERED if self._end_line() else _FULL
        except OSError as error:
            # A reader that has gone does not come back; but it may be another's next time.
            return Unavailable(f"can't write to standard output: {error.strerror}", is_down=True)
        finally:
            if self._rest is line:  # not begun
                self._rest = b""

    def _end_line(self) -> bool:
        """Write piece by piece while there is room; whether nothing is left."""
        while self._rest and self._has_room(_WAIT_MS):
            try:
                written = os.write(self._descriptor, self._rest[:_PIECE_BYTES])
            except BlockingIOError:  # somebody else made it one that never waits
                break
            self._rest = self._rest[written:]
        return not self._rest

    def _has_room(self, wait_ms: int) -> bool:
        return bool(self._poll.poll(wait_ms))

    async def close(self) -> None:
        """Nothing to do: who gave the descriptor closes it."""


def open_stdout(opening: Opening) -> StdoutDestination:
    """Raises `ConfigurationError` without a standard output."""
    if opening.to.partition(":")[2]:
        raise ConfigurationError(f"'{opening.to}' should be stdout: alone")
    try:
        os.fstat(STANDARD_OUTPUT)
    except OSError as error:
        raise ConfigurationError("stdout: there is no standard output here") from error
    return StdoutDestination(STANDARD_OUTPUT)
