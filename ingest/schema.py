"""What a sender may write, as the types that both read it and document it in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from keylane.event import (
    DEFAULT_SOURCE,
    DEFAULT_TYPE,
    MAX_ID_CHARACTERS,
    MAX_USER_CHARACTERS,
)

#: A type's name; webhooks carry it in a header.
MAX_TYPE_CHARACTERS: Final = 256
#: A source is a URI; longer ones endanger the 8 KB that servers allow for all headers.
MAX_SOURCE_CHARACTERS: Final = 1024
MAX_MESSAGE_CHARACTERS: Final = 100_000

# The CloudEvents type system, "String": no control characters, no noncharacters.
PLAIN_TEXT: Final = (
    r"\A[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff"
    + "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(1, 17))
    + r"]+\Z"
)
# RFC 3986, the characters of a URI reference.
URI_REFERENCE: Final = r"\A(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+\Z"
DATE_TIME: Final = (
    r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)


class SentEvent(
    msgspec.Struct,
    forbid_unknown_fields=True,
    gc=False,
    rename={
        "user": "UserID",
        "payload": "Payload",
        "id": "ID",
        "type": "Type",
        "source": "Source",
        "time": "Time",
    },
):
    """One event as it is sent."""

    user: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_USER_CHARACTERS,
            description="Whose event it is. Events of one user are delivered in order.",
        ),
    ]
    payload: Annotated[
        msgspec.Raw,
        Meta(description="Any JSON value; delivered byte for byte as it was sent."),
    ]
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_ID_CHARACTERS,
                pattern=PLAIN_TEXT,
                description="The event's id, the same on every delivery. Default: a UUIDv7.",
            ),
        ]
        | None
    ) = None
    type: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_TYPE_CHARACTERS,
                pattern=PLAIN_TEXT,
                description=f"What happened (CloudEvents `type`). Default: {DEFAULT_TYPE}.",
            ),
        ]
        | None
    ) = None
    source: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_SOURCE_CHARACTERS,
                pattern=URI_REFERENCE,
                description="Where it happened, a URI reference (CloudEvents `source`). "
                f"Default: {DEFAULT_SOURCE}.",
            ),
        ]
        | None
    ) = None
    time: (
        Annotated[
            str,
            Meta(
                pattern=DATE_TIME,
                description="When it happened (RFC 3339). Default: when it was accepted.",
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | None
    ) = None


#: A request's body: many events, or one.
Body: TypeAlias = list[SentEvent] | SentEvent


class SentNotification(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A text for one user, as it is sent to `POST /notify`."""

    message: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_MESSAGE_CHARACTERS,
            description="The text; delivered byte for byte as it was sent.",
        ),
    ]
    user: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_USER_CHARACTERS,
                description="Whom it is for. Default: the sender's address.",
            ),
        ]
        | None
    ) = None
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_ID_CHARACTERS,
                pattern=PLAIN_TEXT,
                description="The event's id, the same on every delivery. Default: a UUIDv7.",
            ),
        ]
        | None
    ) = None
