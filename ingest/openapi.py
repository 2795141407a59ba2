"""What /openapi.json says beyond the routes, made from the types that read and write the bodies."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

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
    400: "The body can't be read as JSON in UTF-8.",
    413: "The body, the array or a payload is too large. Nothing was accepted, unless `events` "
    "says what became of each.",
    415: "The body must be sent as application/json, in UTF-8, not compressed.",
    422: "Names each bad element by index and field. Nothing was accepted.",
    429: "Too many events wait for the broker. Nothing was sent; try again after `Retry-After`.",
    500: "A fault of this server.",
    503: "The broker can't be reached, did not confirm in time, or this server shuts down. If "
    "`events` is there, it says of each event whether it is stored.",
}

_EXAMPLES: Final[Mapping[int, Mapping[str, Any]]] = {
    400: {"detail": "The body is not JSON: Expecting value: line 1 column 1 (char 0)."},
    413: {"detail": "A body may have 10485760 bytes; send fewer events a request."},
    415: {"detail": "Send it with Content-Type: application/json."},
    422: {
        "detail": "The body holds elements that are no events; none was accepted.",
        "errors": [{"index": 1, "field": "UserID", "detail": "is required"}],
    },
    429: {"detail": "Too many events wait for the broker's receipt; nothing was sent."},
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
    413: "body-too-large",
    415: "wrong-media-type",
    422: "invalid-events",
    429: "too-many-in-flight",
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

EVENTS_REQUEST: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _BODY,
                "examples": {
                    "many": {
                        "summary": "Several events",
                        "value": [
                            {"UserID": "user-1", "Payload": {"plan": "pro"}},
                            {
                                "UserID": "user-2",
                                "Payload": {"order": 18},
                                "ID": "order-18",
                                "Type": "order.created",
                                "Source": "/shop",
                                "Time": "2026-01-31T12:00:00Z",
                            },
                        ],
                    },
                    "one": {
                        "summary": "One event",
                        "value": {"UserID": "user-1", "Payload": "signed in"},
                    },
                },
            }
        },
    }
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
    """Add the schemas that the routes refer to."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_COMPONENTS)
    return document
