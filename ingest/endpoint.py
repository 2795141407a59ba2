"""POST /events: a body in, an answer out, and what the log and the metrics say of it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from ingest import problems
from ingest.accept import Intake
from ingest.answers import Accepted, Stored
from ingest.decode import Limits, decode
from ingest.door import Door
from ingest.metrics import Metrics
from ingest.problems import INTERNAL, Kind, Problem
from ingest.refusals import BodyTooLarge, WrongMediaType
from ingest.throttle import Throttle
from keylane.errors import KeylaneError
from keylane.event import Event
from keylane.settings import IngestSettings

log = structlog.get_logger()

Headers = Mapping[bytes, bytes]

#: Seconds between two log lines about refusals of the same kind that come in floods.
QUIET_S: Final = 1.0

_ACCEPTED: Final = 202
_JSON: Final = "application/json"
_PLAIN_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8"})
_JSON_TYPE: Final = re.compile(
    rb'\s*application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?', re.IGNORECASE
)
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE: Final = re.compile(rb"[\x20-\x7e]{1,512}")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


class EventsEndpoint:
    """Takes events: decodes, has them stored, answers."""

    def __init__(
        self, intake: Intake, door: Door, settings: IngestSettings, metrics: Metrics
    ) -> None:
        self._intake = intake
        self._door = door
        self._limits = Limits(settings.max_events, settings.max_payload_bytes)
        self._max_body_bytes = settings.max_body_bytes
        self._retry_after_s = settings.retry_after_s
        self._metrics = metrics
        self._throttle = Throttle(QUIET_S)

    async def post(self, request: Request) -> Response:
        """Store the body's events, in their order, and answer when the broker has confirmed all."""
        headers: Headers = dict(request.scope["headers"])
        try:
            with self._door:
                response = await self._take(headers, request.receive)
        except KeylaneError as error:
            response = self._refuse(*problems.problem_of(error), request)
        except ClientDisconnect:
            return Response()  # nobody is there to read it
        except Exception:
            # The outermost frame of a request: a fault here has to become an answer.
            log.exception("request.failed")
            response = self._refuse(INTERNAL, problems.describe(INTERNAL, INTERNAL.title), request)
        if (request_id := headers.get(b"x-request-id")) and _REQUEST_ID.fullmatch(request_id):
            response.raw_headers.append((b"x-request-id", request_id))
        self._metrics.count_request(response.status_code)
        return response

    async def _take(self, headers: Headers, receive: Receive) -> Response:
        _check_media_type(headers)
        body = await _read(headers, receive, self._max_body_bytes)
        now_ms = time.time_ns() // 1_000_000
        events = decode(body, self._limits, now_ms, _trace(headers))
        del body
        started_at = time.perf_counter()
        await self._intake.accept(events)
        self._metrics.publish_duration.observe(time.perf_counter() - started_at)
        self._metrics.accepted_events.inc(len(events))
        if log.is_enabled_for(logging.DEBUG):
            for event in events:
                log.debug("event.accepted", id=event.id, user=event.user)
        return _accepted(events)

    def _refuse(self, kind: Kind, problem: Problem, request: Request) -> Response:
        self._metrics.refused[kind.name].inc()
        # A sender's mistake is told each time; when we can't serve, one line a second says it.
        suppressed = self._throttle.suppressed(kind.name) if kind.is_temporary else 0
        if suppressed is not None:
            write = log.warning if kind.is_temporary else log.info
            write(
                "request.refused",
                status=kind.status,
                reason=kind.name,
                detail=problem.detail,
                errors=len(problem.errors),
                client=request.client.host if request.client else "",
                instance=problem.instance,
                suppressed=suppressed,
            )
        return problems.answer(kind, problem, self._retry_after_s)


def _check_media_type(headers: Headers) -> None:
    """Refuse what is not said to be JSON.

    A missing type too: a browser may send that across origins without asking.
    """
    content_type = headers.get(b"content-type", b"")
    if content_type not in _PLAIN_JSON and not _JSON_TYPE.fullmatch(content_type):
        raise WrongMediaType("Send it with Content-Type: application/json, in UTF-8.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise WrongMediaType("Send it without a Content-Encoding.")


async def _read(headers: Headers, receive: Receive, max_bytes: int) -> bytes:
    """Read the body, never keeping more than `max_bytes` and one chunk.

    Starlette's RequestBodyLimitMiddleware answers in plain text, whatever the application says, and
    costs a twentieth of the rate; here the body is read by hand anyway, so here it is counted.
    """
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        raise BodyTooLarge(max_bytes)
    chunks: list[bytes] = []
    size = 0
    is_more = True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        is_more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _trace(headers: Headers) -> Mapping[str, str] | None:
    """Take over the W3C trace context, so that deliveries show up in the sender's trace."""
    parent = headers.get(b"traceparent")
    if parent is None or not _TRACEPARENT.fullmatch(parent):
        return None
    context = {"traceparent": parent.decode("ascii")}
    state = headers.get(b"tracestate", b"")
    if _TRACESTATE.fullmatch(state):
        context["tracestate"] = state.decode("ascii")
    return context


def _accepted(events: Sequence[Event]) -> Response:
    answer = Accepted(len(events), [Stored(event.id, event.user) for event in events])
    return Response(msgspec.json.encode(answer), _ACCEPTED, media_type=_JSON)
