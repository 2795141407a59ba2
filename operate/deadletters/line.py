"""A dead letter as one line of a file, and back: JSON, with every byte of the payload kept."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import orjson

from keylane.broker import OutgoingMessage
from keylane.errors import ContractError
from keylane.event import rfc3339
from operate.deadletters.letter import DeadLetter, properties_of


def payload_of(payload: bytes) -> dict[str, Any]:
    """`payload` where it is JSON on one line, exactly as it is; else `payload_base64`."""
    if payload == payload.strip() and b"\n" not in payload and b"\r" not in payload:
        with contextlib.suppress(orjson.JSONDecodeError):
            orjson.loads(payload)
            return {"payload": orjson.Fragment(payload)}
    return {"payload_base64": base64.b64encode(payload).decode()}


def line_of(letter: DeadLetter) -> bytes:
    """With its line break. What an import needs, and where and when it lay there."""
    message = letter.content
    return orjson.dumps(
        {
            "key": message.key,
            **payload_of(message.value()),
            "properties": properties_of(message),
            "event_time_ms": message.event_time_ms,
            "position": letter.place.text,
            "published_at": rfc3339(message.publish_time_ms),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


class _Line(msgspec.Struct):
    key: str
    properties: dict[str, str]
    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    payload_base64: str | msgspec.UnsetType = msgspec.UNSET
    event_time_ms: int = 0


_DECODER = msgspec.json.Decoder(_Line)


def message_of(line: bytes) -> OutgoingMessage:
    """Raises `ContractError`."""
    try:
        found = _DECODER.decode(line.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(str(error)) from error
    if found.event_time_ms < 0:
        raise ContractError("event_time_ms is below 0")
    return OutgoingMessage(found.key, _payload(found), found.properties, found.event_time_ms)


def _payload(line: _Line) -> bytes:
    if (line.payload is msgspec.UNSET) == (line.payload_base64 is msgspec.UNSET):
        raise ContractError("one of payload and payload_base64 is needed")
    if isinstance(line.payload_base64, str):
        try:
            return base64.b64decode(line.payload_base64, validate=True)
        except binascii.Error as error:
            raise ContractError(f"payload_base64 is no base64: {error}") from error
    return bytes(line.payload)  # type: ignore[arg-type]  # one of the two is set


def messages(lines: Iterable[bytes]) -> Iterator[tuple[int, OutgoingMessage | ContractError]]:
    """Each line by its number, from 1; empty ones are passed over."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, message_of(line)
            except ContractError as error:
                yield number, error
