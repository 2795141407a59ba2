"""Which HTTP answer an error becomes: application/problem+json (RFC 9457), decided only here.

`type` is stable: programs may compare it. `instance` is unique and stands in the log line of the
refusal too. A 4xx or 503 without `events` means that nothing of the request was sent to the broker.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from ingest.idempotency.records import BadIdempotencyKey
from ingest.refusals import (
    BodyTooLarge,
    BodyTooSlow,
    ElementError,
    EventFate,
    InvalidEvents,
    KeyReused,
    MalformedBody,
    NotAllowed,
    NotAuthenticated,
    NotConfirmed,
    PayloadsTooLarge,
    RateLimited,
    RefusedByBroker,
    SchemaViolated,
    ShuttingDown,
    StillRunning,
    StoreUnavailable,
    TooManyEvents,
    TooManyInFlight,
    WrongMediaType,
)
from keylane.errors import BrokerUnavailable, KeylaneError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:keylane:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; `name` ends its `type`."""

    name: str
    status: int
    title: str

    @property
    def type(self) -> str:
        return TYPE_PREFIX + self.name

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later; then the answer has `Retry-After`."""
        return self.status in _TEMPORARY


_TEMPORARY: Final = frozenset(
    {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)

_KINDS: Final[Mapping[type[KeylaneError], Kind]] = {
    MalformedBody: Kind("malformed-body", 400, "The body can't be read as JSON."),
    BadIdempotencyKey: Kind("bad-idempotency-key", 400, "The Idempotency-Key can't be read."),
    NotAuthenticated: Kind("not-authenticated", 401, "A known API key is needed."),
    NotAllowed: Kind("not-allowed", 403, "This API key may not do that."),
    BodyTooSlow: Kind("body-too-slow", 408, "The body did not arrive in time."),
    StillRunning: Kind("still-running", 409, "The same is being stored."),
    BodyTooLarge: Kind("body-too-large", 413, "The body is too large."),
    TooManyEvents: Kind("too-many-events", 413, "The request holds too many events."),
    PayloadsTooLarge: Kind("payload-too-large", 413, "A payload is too large."),
    RefusedByBroker: Kind("event-too-large", 413, "The broker found an event too large."),
    WrongMediaType: Kind("wrong-media-type", 415, "This type or encoding is not taken."),
    InvalidEvents: Kind("invalid-events", 422, "The body holds what is no event."),
    SchemaViolated: Kind("schema-violated", 422, "A payload does not fit its schema."),
    KeyReused: Kind("key-reused", 422, "The Idempotency-Key came with another request before."),
    RateLimited: Kind("rate-limited", 429, "This key or address sends too much."),
    TooManyInFlight: Kind("too-many-in-flight", 503, "Too many events wait for the broker."),
    StoreUnavailable: Kind("store-unavailable", 503, "Repeats can't be recognized now."),
    ShuttingDown: Kind("shutting-down", 503, "This server is shutting down."),
    BrokerUnavailable: Kind("broker-unavailable", 503, "The broker can't be reached."),
    NotConfirmed: Kind("not-confirmed", 503, "The broker did not confirm every event."),
}
NOT_FOUND: Final = Kind("not-found", 404, "There is nothing here.")
METHOD_NOT_ALLOWED: Final = Kind("method-not-allowed", 405, "This method is not allowed here.")
BAD_REQUEST: Final = Kind("bad-request", 400, "This is no HTTP request.")
HEAD_TOO_LARGE: Final = Kind("head-too-large", 431, "The request's headers are too large.")
INTERNAL: Final = Kind("internal", 500, "Something went wrong in this server.")
#: Every kind there is, for the documentation and the metrics.
KINDS: Final[Sequence[Kind]] = (
    *_KINDS.values(),
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    INTERNAL,
)

#: Errors of others are told in our words: theirs may name addresses.
_OWN_DETAIL: Final[Mapping[type[KeylaneError], str]] = {
    BrokerUnavailable: "The broker can't be reached; nothing of this request was stored.",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """Why a request was not accepted (RFC 9457)."""

    type: Annotated[str, Meta(description="Which kind of problem; stable.")]
    title: Annotated[str, Meta(description="The kind in words.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What happened this time.")]
    instance: Annotated[str, Meta(description="This occurrence; also in the server's log.")]
    errors: Annotated[
        Sequence[ElementError],
        Meta(description="Every bad element, by index from 0 and field; none was accepted."),
    ] = ()
    events: Annotated[
        Sequence[EventFate],
        Meta(
            description="If something was sent to the broker: what became of each event. "
            "`confirmed` is stored, `unknown` may be stored or not, `not-sent` and `too-large` "
            "are not stored."
        ),
    ] = ()


def kind_of(error: KeylaneError) -> Kind:
    """Find the kind of an error, that of its nearest ancestor."""
    return next((_KINDS[c] for c in type(error).__mro__ if c in _KINDS), INTERNAL)


def problem_of(error: KeylaneError) -> tuple[Kind, Problem]:
    kind = kind_of(error)
    own_detail = kind.title if kind is INTERNAL else str(error)
    problem = describe(kind, _OWN_DETAIL.get(type(error), own_detail))
    if isinstance(error, (InvalidEvents, PayloadsTooLarge, RefusedByBroker)):
        problem.errors = error.errors
    if isinstance(error, NotConfirmed):
        problem.events = error.events
    return kind, problem


def describe(kind: Kind, detail: str) -> Problem:
    return Problem(kind.type, kind.title, kind.status, detail, uuid.uuid4().urn)


def answer(
    kind: Kind, problem: Problem, retry_after_s: float, headers: Mapping[str, str] | None = None
) -> Response:
    """Put a problem into a response; `retry_after_s` is told if trying again makes sense."""
    told = dict(headers or {})
    if kind.status == HTTPStatus.UNAUTHORIZED:
        told["WWW-Authenticate"] = "Bearer"
    if kind.is_temporary:
        told["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return Response(msgspec.json.encode(problem), kind.status, told, MEDIA_TYPE)
