"""What the store's values mean, and what follows from them. Nothing here waits or asks a clock.

A key has a record (which request it belongs to, when it was first seen, what is confirmed, in the
end the answer) and, while a process works on it, a lease with that work's token. An id has the
lease of whoever is storing its event, and then the word that it is stored. A lease that ran out is
no longer in the store: its owner is taken to be dead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import zip_longest
from typing import Final

import msgspec

from ingest.idempotency.store import REMOVED, Write
from ingest.refusals import KeyReused, StillRunning
from keylane.errors import ContractError

MAX_KEY_CHARACTERS: Final = 255
#: Under an id's name once its event is stored. No token is that short.
STORED: Final = b"+"
#: Seconds after which to ask again for what another request is storing.
ASK_AGAIN_S: Final = 1.0

Values = Sequence[bytes | None]
Writes = list[Write | None]


class BadIdempotencyKey(ContractError):  # noqa: N818  named by the fact
    """The Idempotency-Key header has to be 1 to 255 visible ASCII characters."""


class Mark(IntEnum):
    """What is known of one event of a request with a key, one byte each in its record."""

    #: Sent or not, stored or not: to be sent by whoever goes on.
    OPEN = 0
    CONFIRMED = 1
    #: Stored by another request, with the same id.
    DUPLICATE = 2


class KeyRecord(msgspec.Struct, array_like=True, frozen=True):
    """What is known of a key; `answer` is the body of the 202, empty until all is confirmed."""

    fingerprint: bytes
    #: Milliseconds since 1970 at which the key was first reserved: the ids are made of it.
    first_ms: int
    #: A `Mark` for each event; empty before any is confirmed.
    marks: bytes = b""
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class KeyNames:
    """Where a key's record and lease are kept."""

    record: bytes
    lease: bytes


def key_names(scope: str, key: str) -> KeyNames:
    return KeyNames(_name("key", scope, key), _name("lease", scope, key))


def id_name(scope: str, event_id: str) -> bytes:
    return _name("id", scope, event_id)


def _name(kind: str, scope: str, text: str) -> bytes:
    return hashlib.sha256(f"{kind}\0{scope}\0{text}".encode()).digest()


def read_key(header: bytes) -> str:
    """The key that a header's value gives, without the quotes of a structured field.

    Raises `BadIdempotencyKey`.
    """
    value = header.strip(b" \t")
    if value[:1] == b'"' and value[-1:] == b'"' and len(value) > 1:
        value = value[1:-1]
    if not 1 <= len(value) <= MAX_KEY_CHARACTERS or not all(0x21 <= c <= 0x7E for c in value):  # noqa: PLR2004  visible ASCII
        raise BadIdempotencyKey
    return value.decode("ascii")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeyRecord).decode


def read_record(value: bytes | None) -> KeyRecord | None:
    return None if value is None else _decode(value)


def write_record(record: KeyRecord) -> Write:
    return Write(_encode(record))


def claim_key(
    values: Values, new: KeyRecord, owner: bytes, has_ended: Callable[[bytes], bool]
) -> tuple[KeyRecord, Writes]:
    """The record to go on with and the writes that reserve it; none if it holds an answer.

    `values` are the record's and the lease's. `has_ended` tells of a lease's owner whether its work
    is known to be over. Raises `KeyReused` or `StillRunning`.
    """
    record, lease = read_record(values[0]), values[1]
    if record is not None and record.fingerprint != new.fingerprint:
        raise KeyReused
    if record is not None and record.answer:
        return record, []
    if lease is not None and lease != owner and not has_ended(lease):
        raise StillRunning(ASK_AGAIN_S)
    reserved = Write(owner, is_lease=True)
    if record is None:
        return new, [write_record(new), reserved]
    return record, [None, reserved]


def claim_ids(
    values: Values, owner: bytes, has_ended: Callable[[bytes], bool]
) -> tuple[list[bool], Writes]:
    """Which of the ids are stored already, and the writes that reserve the others.

    Raises `StillRunning` if another request is storing one of them.
    """
    for value in values:
        if value not in {None, STORED, owner} and not has_ended(value or b""):
            raise StillRunning(ASK_AGAIN_S, "An event with one of these ids is being stored.")
    reserved = Write(owner, is_lease=True)
    return (
        [value == STORED for value in values],
        [None if value in {STORED, owner} else reserved for value in values],
    )


def extend(values: Values, owner: bytes) -> Writes:
    """Writes that make the owner's leases last; what it lost is not taken back."""
    return [Write(owner, is_lease=True) if value == owner else None for value in values]


def key_outcome(
    values: Values, outcome: KeyRecord | None, owner: bytes, *, is_over: bool
) -> Writes:
    """Writes that record what became of a key's request; `None` forgets it.

    `is_over` gives the lease back. Nothing is written while another owner holds the lease, for it
    knows better; a lease that ran out is no obstacle, since what is confirmed stays so.
    """
    record, lease = read_record(values[0]), values[1]
    if lease not in {None, owner}:
        return [None, None]
    given_back = REMOVED if is_over and lease else None
    if outcome is None:
        return [REMOVED if record and lease else None, given_back]
    joined = _join(record, outcome)
    return [None if joined == record else write_record(joined), given_back]


def _join(record: KeyRecord | None, outcome: KeyRecord) -> KeyRecord:
    """What is known of a key after an outcome; another owner may have recorded some before."""
    if record is None or outcome.answer:
        return outcome if record is None or record.fingerprint == outcome.fingerprint else record
    if record.answer or record.fingerprint != outcome.fingerprint:
        return record
    marks = zip_longest(record.marks, outcome.marks, fillvalue=Mark.OPEN)
    return msgspec.structs.replace(record, marks=bytes([max(pair) for pair in marks]))


def ids_outcome(values: Values, are_stored: Sequence[bool], owner: bytes) -> Writes:
    """Writes that record which ids are stored, and give back those that are not."""
    return [
        _id_outcome(value, owner, is_stored=is_stored)
        for value, is_stored in zip(values, are_stored, strict=True)
    ]


def _id_outcome(value: bytes | None, owner: bytes, *, is_stored: bool) -> Write | None:
    if is_stored:
        # True whoever holds the lease by now.
        return None if value == STORED else Write(STORED)
    return REMOVED if value == owner else None
