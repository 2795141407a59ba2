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
from ingest.accept import Intake
from ingest.answers import Alive, Ready
from ingest.door import Door
from ingest.endpoint import EventsEndpoint
from ingest.metrics import Metrics
from ingest.problems import INTERNAL, METHOD_NOT_ALLOWED, NOT_FOUND, Kind
from keylane.broker import Publisher
from keylane.settings import IngestSettings
from keylane.telemetry import VERSION

EVENTS_PATH = "/events"


def make_app(publisher: Publisher, settings: IngestSettings, door: Door | None = None) -> IngestApp:
    """Build the service on a publisher, which it uses and does not close.

    When `door` is closed nothing more is accepted and readiness says so.
    """
    door = door or Door()
    intake = Intake(
        publisher,
        max_in_flight=settings.max_in_flight,
        send_deadline_s=settings.send_deadline_s,
    )
    metrics = Metrics(lambda: intake.events_in_flight, [kind.name for kind in problems.KINDS])
    intake.on_late_receipts = metrics.late_receipts.inc
    endpoint = EventsEndpoint(intake, door, settings, metrics)
    app = IngestApp(endpoint.post, settings.retry_after_s)
    _add_health(app, intake, door)
    _add_metrics(app, metrics)
    return app


class IngestApp(FastAPI):
    """FastAPI with a short way to POST /events, and problems for errors."""

    def __init__(
        self, post_events: Callable[[Request], Awaitable[Response]], retry_after_s: float
    ) -> None:
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
        self.add_api_route(
            EVENTS_PATH,
            post_events,
            methods=["POST"],
            status_code=202,
            response_class=Response,
            summary="Send events",
            tags=["events"],
            operation_id="sendEvents",
            responses=openapi.EVENTS_RESPONSES,
            openapi_extra=openapi.EVENTS_REQUEST,
        )

    @override
    def build_middleware_stack(self) -> ASGIApp:
        """Serve POST /events ahead of the routing and the seven layers of middleware.

        It needs none of them, and they take more time than all that it does itself. FastAPI's own
        tracing stands further out and still sees it.
        """
        others = super().build_middleware_stack()

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if (
                scope["type"] == "http"
                and scope["path"] == EVENTS_PATH
                and scope["method"] == "POST"
            ):
                response = await self._post_events(Request(scope, receive))
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


def _add_health(app: FastAPI, intake: Intake, door: Door) -> None:
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
        reasons = [] if door.is_open else ["shutting-down"]
        if not intake.is_connected():
            reasons.append("broker-unavailable")
        return _json(Ready(not reasons, reasons), 503 if reasons else 200)


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get(
        "/metrics",
        summary="Metrics for Prometheus",
        tags=["operation"],
        response_class=Response,
        responses=openapi.METRICS_RESPONSES,
    )
    async def prometheus(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), media_type=content_type)


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
