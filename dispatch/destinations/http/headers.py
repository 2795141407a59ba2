"""The headers of a request: CloudEvents (binary mode), Standard Webhooks and Keylane's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from dispatch.delivery import Delivery
from keylane.errors import ConfigurationError, ContractError
from keylane.event import TRACE_PROPERTIES, Event

#: Characters that the CloudEvents HTTP binding leaves as they are: printable ASCII but space,
#: double quote and percent.
_SAFE: Final = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
_IS_SAFE: Final = re.compile(r"[!#$&-~]+").fullmatch
_IS_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]+").fullmatch
_IS_VISIBLE: Final = re.compile(r"[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*").fullmatch
_IS_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch
#: Kinds of events of which the lines are kept that all of a kind share.
_KINDS: Final = 128

#: What a request is made of, and what belongs to one connection.
_OURS: Final = frozenset(
    {"connection", "content-length", "content-type", "cookie", "expect", "host", "keep-alive", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "user-agent", *TRACE_PROPERTIES}
)
_OUR_PREFIXES: Final = ("ce-", "webhook-", "keylane-", "proxy-")


def event_headers(delivery: Delivery, event: Event, event_id: str, timestamp: str) -> list[str]:
    """One line each, the content type first. Raises `ContractError` for what no header can carry.

    `event_id` is `header_value` of the event's; `timestamp` is seconds since 1970.
    """
    user = event.user
    user = user if _IS_UNRESERVED(user) else quote(user, safe="")
    lines = [
        *_lines_of_kind(event.content_type, event.source, event.type),
        f"ce-id: {event_id}",
        f"ce-time: {header_value(event.time)}",
        f"webhook-id: {event_id}",
        f"webhook-timestamp: {timestamp}",
        f"keylane-user: {user}",
        f"keylane-attempt: {delivery.attempt}",
        f"keylane-position: {delivery.position}",
    ]
    lines += [f"{name}: {header_value(value)}" for name, value in delivery.purposes().items()]
    for name, value in event.extensions.items():
        if not _IS_NAME(name):
            raise ContractError("the name of an extension can't be a header's")
        field = name if name in TRACE_PROPERTIES else f"ce-{name}"
        lines.append(f"{field}: {header_value(value)}")
    return lines


@lru_cache(_KINDS)
def _lines_of_kind(content_type: str, source: str, of_type: str) -> tuple[str, ...]:
    if not _IS_VISIBLE(content_type):
        raise ContractError("the content type can't be a header")
    return (
        f"content-type: {content_type}",
        "ce-specversion: 1.0",
        f"ce-source: {header_value(source)}",
        f"ce-type: {header_value(of_type)}",
    )


def header_value(value: str) -> str:
    """As the CloudEvents HTTP binding encodes it."""
    return value if _IS_SAFE(value) else quote(value, safe=_SAFE)


def extra_headers(extra: Iterable[tuple[str, str]], *, has_credentials: bool) -> list[str]:
    """Lines of headers that the settings add. Raises `ConfigurationError`, without the values.

    `has_credentials` says that `Authorization` is set already.
    """
    return [_extra_header(name, value, has_credentials) for name, value in extra]


def _extra_header(name: str, value: str, has_credentials: bool) -> str:  # noqa: FBT001  inner
    if not _IS_NAME(name):
        raise ConfigurationError(f"http.headers: {name!r} is no name of a header")
    lower = name.lower()
    if lower in _OURS or lower.startswith(_OUR_PREFIXES):
        raise ConfigurationError(f"http.headers: {name} is set by Keylane itself")
    if lower == "authorization" and has_credentials:
        raise ConfigurationError("http.headers: Authorization is set by other settings already")
    value = value.strip()
    if not _IS_VISIBLE(value):
        raise ConfigurationError(f"http.headers: the value of {name} should be visible ASCII")
    return f"{name}: {value}"
