"""The HTTP service: events in, health, metrics, documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from ingest import openapi, problems
from ingest.answers import Alive, Ready
from ingest.endpoint import EventsEndpoint
from ingest.gate import Gate
from ingest.media import NOTIFY_PATH
from ingest.problems import INTERNAL, METHOD_NOT_ALLOWED, NOT_FOUND, Kind
from keylane.ingestsettings import IngestSettings
from keylane.telemetry import VERSION

EVENTS_PATH = "/events"
_POSTED = frozenset({EVENTS_PATH, NOTIFY_PATH})

PostEvents = Callable[[Scope, Receive], Awaitable[Response]]


def make_app(gate: Gate, settings: IngestSettings) -> IngestApp:
    """Build the service; while its door is closed nothing is accepted and readiness says so."""
    app = IngestApp(EventsEndpoint(gate, settings).post, settings.retry_after_s)
    _add_health(app, gate)
    _add_metrics(app, gate)
    return app


class IngestApp(FastAPI):
    """FastAPI with a short way to POST /events, and problems for errors."""

    def __init__(self, post_events: PostEvents, retry_after_s: float) -> None:
        self._post_events = post_events
        self._retry_after_s = retry_after_s
        super().__init__(
            title="Keylane ingest",
            version=VERSION,
            summary=openapi.SUMMARY,
            description=openapi.DESCRIPTION,
            redoc_url=None,
            redirect_slashes=False,
            exception_handlers={HTTPException: self._http_error, Exception: self._fault},
        )
        for path, operation in openapi.OPERATIONS.items():
            self.add_api_route(path, self._post, methods=["POST"], **operation)

    async def _post(self, request: Request) -> Response:
        # Documents the route; requests take the short way.
        return await self._post_events(request.scope, request.receive)

    @override
    def build_middleware_stack(self) -> ASGIApp:
        """Serve what is posted ahead of the routing and the seven layers of middleware.

        It needs none of them, and they take more time than all that it does itself. FastAPI's own
        tracing stands further out and still sees it.
        """
        others = super().build_middleware_stack()

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in _POSTED:
                response = await self._post_events(scope, receive)
                await response(scope, receive, send)
            else:
                await others(scope, receive, send)

        return serve

    @override
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.with_components(super().openapi())
        return self.openapi_schema

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  it is registered for these only
        kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(error.status_code, INTERNAL)
        detail = f"{request.method} {request.url.path}: {kind.title}"
        return self._answer(kind, detail, dict(error.headers or {}))

    async def _fault(self, _request: Request, _error: Exception) -> Response:
        return self._answer(INTERNAL, INTERNAL.title, {})

    def _answer(self, kind: Kind, detail: str, headers: dict[str, str]) -> Response:
        problem = problems.describe(kind, detail)
        return problems.answer(kind, problem, self._retry_after_s, headers)


def _add_health(app: FastAPI, gate: Gate) -> None:
    @app.get(
        "/healthz",
        summary="Is the process alive?",
        tags=["operation"],
        response_class=Response,
        responses=openapi.HEALTH_RESPONSES,
    )
    async def healthz() -> Response:
        return _json(Alive("alive", VERSION))

    @app.get(
        "/readyz",
        summary="Can events be confirmed now?",
        tags=["operation"],
        response_class=Response,
        responses=openapi.READY_RESPONSES,
    )
    async def readyz() -> Response:
        reasons = [] if gate.door.is_inviting else ["shutting-down"]
        if not gate.topics.is_connected():
            reasons.append("broker-unavailable")
        return _json(Ready(not reasons, reasons), 503 if reasons else 200)


def _add_metrics(app: FastAPI, gate: Gate) -> None:
    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        tags=["operation"],
        response_class=Response,
        responses=openapi.METRICS_RESPONSES,
    )
    async def prometheus(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        registry = await gate.siblings.registry()
        return Response(encode(registry), media_type=content_type)


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
