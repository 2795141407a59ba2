"""`POST /notify`: a text for one user becomes one event."""

from __future__ import annotations

from typing import Final

import msgspec

from ingest.arrival import Arrival
from ingest.decode import Limits, check_payloads, check_utf8
from ingest.explain import TOO_DEEP, UNFIT_TEXT, Form, explain, text_check
from ingest.refusals import ElementError, InvalidEvents, MalformedBody
from ingest.schema import MAX_MESSAGE_CHARACTERS, PLAIN_TEXT, SentNotification
from keylane.event import MAX_ID_CHARACTERS, Event, rfc3339

NOTIFICATION_TYPE: Final = "keylane.notification"


class _AsSent(msgspec.Struct):
    message: msgspec.Raw


_decoder = msgspec.json.Decoder(SentNotification)
_raw_decoder = msgspec.json.Decoder(_AsSent)


def read_notification(body: bytes, limits: Limits, arrival: Arrival) -> list[Event]:
    """Read the one event; its payload is `{"message": ...}` with the text's bytes as sent.

    Without `user` it belongs to the sender's address. Raises `MalformedBody`, `InvalidEvents` or
    `PayloadsTooLarge`.
    """
    sent = _read(body, limits)
    user = sent.user or arrival.address
    if not user:
        problem = "is required: the sender's address is not known"
        raise InvalidEvents([ElementError(0, "user", problem)])
    event = Event(
        sent.id or arrival.new_ids(1)[0],
        user,
        b'{"message": %b}' % bytes(_raw_decoder.decode(body).message),
        NOTIFICATION_TYPE,
        time=rfc3339(arrival.now_ms),
        accepted_at_ms=arrival.now_ms,
        extensions=arrival.extensions,
    )
    check_payloads([event], limits.max_payload_bytes, ["message"])
    return [event]


def _read(body: bytes, limits: Limits) -> SentNotification:
    check_utf8(body)
    max_user_characters = limits.max_user_characters
    try:
        sent = _decoder.decode(body)
    except RecursionError as error:
        raise MalformedBody(TOO_DEEP) from error
    except msgspec.DecodeError as error:
        raise explain(body, _form(max_user_characters), 1, str(error)) from error
    if problem := text_check(max_user_characters)(sent.user):
        raise InvalidEvents([ElementError(0, "user", problem)])
    return sent


def _form(max_user_characters: int) -> Form:
    return Form(
        checks={
            "message": text_check(MAX_MESSAGE_CHARACTERS, nullable=False),
            "user": text_check(max_user_characters),
            "id": text_check(MAX_ID_CHARACTERS, PLAIN_TEXT, UNFIT_TEXT),
        },
        required=("message",),
        id_field="id",
        noun="a notification",
        unknown="those are message, user and id",
        body="The body must be one notification, an object.",
        takes_many=False,
    )
