"""The events that are sent: 100 bytes of payload, numbered, of users in turn."""

from __future__ import annotations

from typing import Final

PAYLOAD_BYTES: Final = 100
#: From this number on the receiver answers 500, always.
FAILING: Final = 4_000_000_000
#: From this number on it answers late.
SLOW: Final = 8_000_000_000
_HEAD: Final = '{"n":"%010d","pad":"'
_TAIL: Final = '"}'
_NUMBER: Final = slice(6, 16)


def payload(number: int) -> bytes:
    head = _HEAD % number
    return f"{head}{'x' * (PAYLOAD_BYTES - len(head) - len(_TAIL))}{_TAIL}".encode()


def number_in(body: bytes) -> int:
    """The number of a payload of ours."""
    return int(body[_NUMBER])


def user(number: int, users: int, kind: str = "user") -> str:
    # All of one length, so that all bodies of a kind are.
    return f"{kind}-{number % users:06d}"


def body(first: int, count: int, users: int, *, has_ids: bool = False) -> bytes:
    """What is posted to ingest: `count` events from number `first` on, with ids made of it or not.

    Without, ingest gives each an id that nothing can repeat.
    """
    events = (
        b'{%s"UserID":"%s","Payload":%s}'
        % (
            b'"ID":"event-%012d",' % number if has_ids else b"",
            user(number, users).encode(),
            payload(number),
        )
        for number in range(first, first + count)
    )
    return b"[%s]" % b",".join(events)
