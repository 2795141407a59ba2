"""What ties a request, its events and their deliveries together: W3C trace context, correlation id.

Both are taken from the sender or made here. They go into the answer, onto each event and into the
log. A trace that we make is not sampled (flags 00): whoever traces, begins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keylane.event import CORRELATION

Headers = Mapping[bytes, bytes]

_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Trace:
    """`extensions` are for the events, `headers` for the answer."""

    extensions: Mapping[str, str]
    headers: list[tuple[bytes, bytes]]

    @property
    def facts(self) -> dict[str, str]:
        """For the log."""
        return {
            "trace": self.extensions["traceparent"].split("-")[1],
            "correlation": self.extensions[CORRELATION],
        }


def trace_of(headers: Headers) -> Trace:
    """Take what the sender gave, as far as it is well formed, and make the rest."""
    parent = headers.get(b"traceparent", b"")
    is_given = _TRACEPARENT.fullmatch(parent) is not None
    drawn = os.urandom(40).hex()
    if not is_given:
        parent = f"00-{drawn[:32]}-{drawn[32:48]}-00".encode("ascii")
    correlation = headers.get(b"x-correlation-id", b"")
    if not _ID.fullmatch(correlation):
        correlation = drawn[48:].encode("ascii")
    extensions = {"traceparent": parent.decode("ascii"), CORRELATION: correlation.decode("ascii")}
    state = headers.get(b"tracestate", b"")
    if is_given and _TRACESTATE.fullmatch(state):
        extensions["tracestate"] = state.decode("ascii")
    answered = [(b"traceparent", parent), (b"x-correlation-id", correlation)]
    request_id = headers.get(b"x-request-id", b"")
    if _ID.fullmatch(request_id):
        answered.append((b"x-request-id", request_id))
    return Trace(extensions, answered)
