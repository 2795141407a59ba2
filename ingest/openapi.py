"""What /openapi.json says beyond the routes, made from the types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from ingest import problems
from ingest.answers import Accepted, Alive, Ready
from ingest.schema import Body

_REFERENCE: Final = "#/components/schemas/{name}"
_INSTANCE: Final = "urn:uuid:0b0e4a4c-6d7c-4f6e-9a55-3f1d8e1c2b3a"
_ID: Final = "019ab3c4-7d1e-7c52-8a4e-5f0c9d2b1a34"


_SCHEMAS, _COMPONENTS = msgspec.json.schema_components(
    [Body, Accepted, problems.Problem, Alive, Ready], ref_template=_REFERENCE
)
_BODY, _ACCEPTED, _PROBLEM, _ALIVE, _READY = _SCHEMAS

_DESCRIPTIONS: Final[Mapping[int, str]] = {
    400: "The body, or the Idempotency-Key, can't be read.",
    401: "This server takes events only with an API key, and none that it knows was sent.",
    403: "The API key has not the scope for this.",
    408: "The body did not arrive in time. Nothing was sent.",
    409: "A request with the same Idempotency-Key, or the same event id, is being stored. "
    "Ask again after `Retry-After`.",
    413: "The body, the array or a payload is too large. Nothing was accepted, unless `events` "
    "says what became of each.",
    415: "The body's media type or encoding is not taken.",
    422: "Names each bad element by index and field; or the Idempotency-Key came with another "
    "request before. Nothing was accepted.",
    429: "This API key or address sends too much. Nothing was sent; try again after `Retry-After`.",
    431: "The request's headers are too large.",
    500: "A fault of this server.",
    503: "The broker can't be reached or did not confirm in time, too much waits for it, or this "
    "server shuts down. If `events` is there, it says of each event whether it is stored.",
}

_EXAMPLES: Final[Mapping[int, Mapping[str, Any]]] = {
    400: {"detail": "The body is not JSON: Expecting value: line 1 column 1 (char 0)."},
    401: {"detail": "Send a known API key: `Authorization: Bearer KEY`."},
    403: {"detail": "This key has not the scope events:write."},
    408: {"detail": "The body did not arrive in 30 s; nothing was sent."},
    409: {"detail": "The same request, or event, is being stored; ask again for its outcome."},
    413: {"detail": "A body may have 10485760 bytes; send fewer events a request."},
    415: {"detail": "Send it with Content-Type: application/json."},
    422: {
        "detail": "The body holds elements that are no events; none was accepted.",
        "errors": [{"index": 1, "field": "UserID", "detail": "is required"}],
    },
    429: {"detail": "This key or address sends more than it may; nothing was sent."},
    431: {"detail": "A head may have 65536 bytes."},
    500: {"detail": "Something went wrong in this server."},
    503: {
        "detail": "The broker did not confirm every event; `events` says what is known of each.",
        "events": [
            {"index": 0, "id": _ID, "user": "user-1", "status": "confirmed"},
            {"index": 1, "id": "order-18", "user": "user-2", "status": "unknown"},
        ],
    },
}
_EXAMPLE_KINDS: Final = {
    400: "malformed-body",
    401: "not-authenticated",
    403: "not-allowed",
    408: "body-too-slow",
    409: "still-running",
    413: "body-too-large",
    415: "wrong-media-type",
    422: "invalid-events",
    429: "rate-limited",
    431: "head-too-large",
    500: "internal",
    503: "not-confirmed",
}

SUMMARY: Final = "Takes events over HTTP and stores them in order, user by user."
DESCRIPTION: Final = (
    "Events of one user are stored, and later delivered, in the order they were sent. "
    "An answer of 202 means that the broker has confirmed every event of the request.\n\n"
    "Errors are `application/problem+json` (RFC 9457). Their `type` is stable:\n\n"
    "| type | status | |\n|---|---|---|\n"
    + "\n".join(f"| `{kind.type}` | {kind.status} | {kind.title} |" for kind in problems.KINDS)
)

_EVENT_EXAMPLE: Final = {
    "UserID": "user-2",
    "Payload": {"order": 18},
    "ID": "order-18",
    "Type": "order.created",
    "Source": "/shop",
    "Time": "2026-01-31T12:00:00Z",
}
_CLOUDEVENT_EXAMPLE: Final = {
    "specversion": "1.0",
    "id": "order-18",
    "source": "/shop",
    "type": "order.created",
    "partitionkey": "user-2",
    "data": {"order": 18},
}
_CLOUDEVENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "partitionkey": {"type": "string", "description": "The user; else `subject` is."},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "data": {},
        "data_base64": {"type": "string"},
    },
}
_EVENTS_CONTENT: Final[dict[str, Any]] = {
    "application/json": {
        "schema": _BODY,
        "examples": {
            "many": {
                "summary": "Several events",
                "value": [{"UserID": "user-1", "Payload": {"plan": "pro"}}, _EVENT_EXAMPLE],
            },
            "one": {
                "summary": "One event",
                "value": {"UserID": "user-1", "Payload": "signed in"},
            },
        },
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One event a line."},
        "example": '{"UserID": "user-1", "Payload": 1}\n{"UserID": "user-1", "Payload": 2}\n',
    },
    "application/cloudevents+json": {"schema": _CLOUDEVENT, "example": _CLOUDEVENT_EXAMPLE},
    "application/cloudevents-batch+json": {
        "schema": {"type": "array", "items": _CLOUDEVENT},
        "example": [_CLOUDEVENT_EXAMPLE],
    },
}
_NOTIFICATION: Final[dict[str, Any]] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["message"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1, "maxLength": 100_000},
                "user": {"type": "string", "minLength": 1, "maxLength": 256},
                "id": {"type": "string", "minLength": 1, "maxLength": 256},
            },
        },
        "example": {"message": "Your order is on its way.", "user": "user-1"},
    }
}


def _header(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
    }


_PARAMETERS: Final = [
    _header(
        "Idempotency-Key",
        "Names the request: a repeat with the same key and body gets the same answer and stores "
        "nothing twice. 1 to 255 visible ASCII characters.",
    ),
    _header("X-Correlation-Id", "Goes onto each event, into the log and the answer."),
    _header("traceparent", "W3C trace context; goes onto each event and into the answer."),
]


def _request(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": _PARAMETERS,
        "security": [{}, {"key": []}],
    }


def _problem(status: int) -> dict[str, Any]:
    name = _EXAMPLE_KINDS[status]
    kind = next(kind for kind in problems.KINDS if kind.name == name)
    example = {
        "type": kind.type,
        "title": kind.title,
        "status": status,
        "instance": _INSTANCE,
        **_EXAMPLES[status],
    }
    documented: dict[str, Any] = {
        "description": _DESCRIPTIONS[status],
        "content": {problems.MEDIA_TYPE: {"schema": _PROBLEM, "example": example}},
    }
    if kind.is_temporary:
        documented["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait before trying again.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return documented


def _json(
    description: str, schema: Mapping[str, Any], example: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": schema, "example": example}},
    }


EVENTS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    HTTPStatus.ACCEPTED.value: _json(
        "The broker has confirmed every event.",
        _ACCEPTED,
        {
            "accepted": 2,
            "events": [{"id": _ID, "user": "user-1"}, {"id": "order-18", "user": "user-2"}],
        },
    ),
    **{status: _problem(status) for status in _DESCRIPTIONS},
}
_POSTED: Final[dict[str, Any]] = {
    "status_code": HTTPStatus.ACCEPTED.value,
    "response_class": Response,
    "tags": ["events"],
    "responses": EVENTS_RESPONSES,
}
OPERATIONS: Final[Mapping[str, dict[str, Any]]] = {
    "/events": {
        "summary": "Send events",
        "operation_id": "sendEvents",
        "openapi_extra": _request(_EVENTS_CONTENT),
        **_POSTED,
    },
    "/notify": {
        "summary": "Send a text to a user",
        "operation_id": "notify",
        "openapi_extra": _request(_NOTIFICATION),
        **_POSTED,
    },
}
HEALTH_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json("The process answers.", _ALIVE, {"status": "alive", "version": "1.2.3"}),
}
READY_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: _json("Events can be confirmed.", _READY, {"ready": True, "reasons": []}),
    503: _json(
        "Events can't be confirmed now.",
        _READY,
        {"ready": False, "reasons": ["broker-unavailable"]},
    ),
}
METRICS_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "All metrics, in the Prometheus text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
}


def with_components(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schemas that the routes refer to, and how keys are sent."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(_COMPONENTS)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
