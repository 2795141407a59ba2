"""Which form a body has; its Content-Type says it, and nothing is guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from ingest.arrival import Arrival
from ingest.cloudevents import read_batch, read_binary, read_structured
from ingest.decode import Limits, decode
from ingest.jsonlines import read_lines
from ingest.notify import read_notification
from ingest.refusals import WrongMediaType
from keylane.event import Event

Reader: TypeAlias = Callable[[bytes, Limits, Arrival], list[Event]]

NOTIFY_PATH: Final = "/notify"

_JSON: Final = b"application/json"
#: Readers of `POST /events` by media type.
EVENT_READERS: Final[Mapping[bytes, Reader]] = {
    _JSON: decode,
    b"application/x-ndjson": read_lines,
    b"application/jsonl": read_lines,
    b"application/x-jsonlines": read_lines,
    b"application/cloudevents+json": read_structured,
    b"application/cloudevents-batch+json": read_batch,
}
#: Readers of `POST /notify` by media type.
NOTIFY_READERS: Final[Mapping[bytes, Reader]] = {_JSON: read_notification}

_EVENT_TYPES: Final = (
    "Send it with Content-Type: application/json, application/x-ndjson, "
    "application/cloudevents+json or application/cloudevents-batch+json, in UTF-8; "
    "or with CloudEvents headers (ce-specversion, ...)."
)
_NOTIFY_TYPES: Final = "Send it with Content-Type: application/json, in UTF-8."

_IN_UTF8: Final = re.compile(rb'\s*([^\s;]+)\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE)
_CLOUDEVENTS: Final = re.compile(rb"\s*application/cloudevents", re.IGNORECASE)


def reader_for(path: str, headers: Mapping[bytes, bytes]) -> Reader:
    """Find the reader for a request; names of headers are in lower case.

    Raises `WrongMediaType`. A missing type is refused too: a browser may send that across origins
    without asking. A CloudEvent in binary mode has it in its `ce-` headers, which browsers ask for.
    """
    content_type = headers.get(b"content-type", b"")
    if path == NOTIFY_PATH:
        return _reader(content_type, NOTIFY_READERS, _NOTIFY_TYPES)
    # In structured mode these headers may be there too, and the body is what counts.
    if b"ce-specversion" in headers and not _CLOUDEVENTS.match(content_type):
        return partial(read_binary, headers)
    return EVENT_READERS.get(content_type) or _reader(content_type, EVENT_READERS, _EVENT_TYPES)


def _reader(content_type: bytes, readers: Mapping[bytes, Reader], taken: str) -> Reader:
    found = _IN_UTF8.fullmatch(content_type)
    reader = readers.get(found[1].lower()) if found else None
    if reader is None:
        raise WrongMediaType(taken)
    return reader
