"""POST /events and /notify: a body in, an answer out, and one line in the log about it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from ingest import problems, rate
from ingest.accept import Intake
from ingest.address import client_address
from ingest.arrival import Arrival
from ingest.decode import Limits
from ingest.gate import Gate
from ingest.idempotency import Attempt
from ingest.inflate import inflate
from ingest.keys import Caller
from ingest.media import NOTIFY_PATH, reader_for
from ingest.problems import INTERNAL, Kind, Problem
from ingest.refusals import BodyTooLarge, BodyTooSlow
from ingest.throttle import Throttle
from ingest.trace import Trace, trace_of
from keylane.errors import KeylaneError
from keylane.event import Event
from keylane.ingestsettings import IngestSettings

log = structlog.get_logger()

Headers = Mapping[bytes, bytes]

#: Seconds between two log lines about refusals of the same kind that come in floods.
QUIET_S: Final = 1.0

_ACCEPTED: Final = 202
_JSON: Final = "application/json"
_SCOPES: Final[Mapping[str, str]] = {NOTIFY_PATH: "notify:write"}
_WRITE: Final = "events:write"


@dataclass(slots=True)
class _Request:
    """One request and what is found out about it, for the answer and the log."""

    scope: Scope
    headers: Headers
    trace: Trace
    address: str
    began_at: float
    caller: Caller | None = None
    standing: rate.Standing | None = None
    body_bytes: int = 0
    events: int = 0
    duplicates: int = 0
    is_replayed: bool = False
    told: list[tuple[bytes, bytes]] = field(default_factory=list)


class EventsEndpoint:
    """Takes events: asks who sends them, decodes, has them stored, answers."""

    def __init__(self, gate: Gate, settings: IngestSettings) -> None:
        self._gate = gate
        self._metrics = gate.metrics
        self._limits = Limits(
            settings.max_events, settings.max_payload_bytes, settings.max_user_characters
        )
        self._max_body_bytes = settings.max_body_bytes
        self._body_timeout_s = settings.body_timeout_s
        self._retry_after_s = settings.retry_after_s
        self._logs_access = settings.access_log
        self._throttle = Throttle(QUIET_S)

    async def post(self, scope: Scope, receive: Receive) -> Response:
        """Store the body's events, in their order, and answer when the broker has confirmed all."""
        headers: Headers = dict(scope["headers"])
        request = _Request(
            scope,
            headers,
            trace_of(headers),
            self._address(scope),
            time.perf_counter(),
        )
        try:
            with self._gate.door:
                response = await self._take(request, receive)
        except KeylaneError as error:
            response = self._refuse(request, *problems.problem_of(error), error)
        except ClientDisconnect:
            return Response()  # nobody is there to read it
        except Exception as error:
            # The outermost frame of a request: a fault here has to become an answer.
            log.exception("request.failed", **request.trace.facts)
            problem = problems.describe(INTERNAL, INTERNAL.title)
            response = self._refuse(request, INTERNAL, problem, error)
        else:
            if self._logs_access:
                self._log_access(request, response.status_code)
        response.raw_headers += request.trace.headers
        if request.standing:
            response.raw_headers += rate.headers(request.standing)
        self._metrics.count_request(response.status_code)
        return response

    def _address(self, scope: Scope) -> str:
        client = scope.get("client")
        peer = client[0] if client else ""
        if not self._gate.trusted_proxies:
            return peer
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_address(peer, forwarded, self._gate.trusted_proxies)

    async def _take(self, request: _Request, receive: Receive) -> Response:
        gate, headers, path = self._gate, request.headers, request.scope["path"]
        caller = request.caller = gate.keys.authenticate(headers)
        caller.require(_SCOPES.get(path, _WRITE))
        read = reader_for(path, headers)
        self._charge(request, 1)
        body = await self._read(headers, receive)
        request.body_bytes = len(body)
        now_ms = time.time_ns() // 1_000_000
        key = headers.get(b"idempotency-key")
        if key is None:
            attempt = gate.repeats.plain(caller.topic, now_ms)
        else:
            fingerprint = _fingerprint(path, headers, body)
            attempt = await gate.repeats.begin(caller.topic, key, fingerprint, now_ms)
            if attempt.answer is not None:
                request.is_replayed = True
                return _replayed(attempt.answer)
        try:
            arrival = Arrival(now_ms, attempt.new_ids, request.trace.extensions, request.address)
            events = read(inflate(headers, body, self._max_body_bytes), self._limits, arrival)
            del body
            self._check(request, events)
            intake = await gate.topics.intake(caller.topic)
        except BaseException:
            await attempt.abandon()
            raise
        return await self._store(request, events, attempt, intake)

    def _charge(self, request: _Request, tokens: int, paid: int = 0) -> None:
        if self._gate.rates.is_on and request.caller:
            who = request.caller.key_id or request.address
            try:
                request.standing = self._gate.rates.take(who, tokens, time.monotonic(), paid)
            except rate.OverLimit as error:
                request.standing = error.standing
                raise

    def _check(self, request: _Request, events: list[Event]) -> None:
        request.events = len(events)
        if len(events) > 1:
            self._charge(request, len(events) - 1, paid=1)
        if self._gate.check_schemas:
            self._metrics.schema_violations.inc(self._gate.check_schemas(events))

    async def _store(
        self, request: _Request, events: list[Event], attempt: Attempt, intake: Intake
    ) -> Response:
        started_at = time.perf_counter()
        accepted = await attempt.store(events, intake)
        self._metrics.publish_duration.observe(time.perf_counter() - started_at)
        request.duplicates = accepted.duplicates
        self._metrics.accepted_events.inc(len(events) - accepted.duplicates)
        self._metrics.duplicate_events.inc(accepted.duplicates)
        if log.is_enabled_for(logging.DEBUG):
            for event in events:
                log.debug("event.accepted", id=event.id, user=event.user, **request.trace.facts)
        return Response(accepted.body, _ACCEPTED, media_type=_JSON)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """Read the body, never keeping more than the limit and one chunk.

        Starlette's RequestBodyLimitMiddleware answers in plain text, whatever the application says,
        and costs a twentieth of the rate; here the body is read by hand anyway, so here it is
        counted.
        """
        max_bytes = self._max_body_bytes
        if int(headers.get(b"content-length", b"0")) > max_bytes:
            raise BodyTooLarge(max_bytes)
        message = await receive()
        if not message.get("more_body") and message["type"] == "http.request":
            body: bytes = message.get("body", b"")
            if len(body) > max_bytes:
                raise BodyTooLarge(max_bytes)
            return body
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await _read_on(message, receive, max_bytes)
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The body did not arrive in {self._body_timeout_s:g} s; nothing was sent."
            ) from error

    def _refuse(
        self, request: _Request, kind: Kind, problem: Problem, error: Exception
    ) -> Response:
        self._metrics.refused[kind.name].inc()
        # A sender's mistake is told each time; when we can't serve, one line a second says it.
        suppressed = self._throttle.suppressed(kind.name) if kind.is_temporary else 0
        if suppressed is not None:
            write = log.warning if kind.status >= _SERVER_ERROR else log.info
            write(
                "request.refused",
                status=kind.status,
                reason=kind.name,
                detail=problem.detail,
                errors=len(problem.errors),
                instance=problem.instance,
                suppressed=suppressed,
                **_access_facts(request),
            )
        retry_after_s = getattr(error, "retry_after_s", self._retry_after_s)
        return problems.answer(kind, problem, retry_after_s)

    def _log_access(self, request: _Request, status: int) -> None:
        log.info(
            "request.accepted",
            status=status,
            events=request.events,
            duplicates=request.duplicates,
            replayed=request.is_replayed,
            **_access_facts(request),
        )


_SERVER_ERROR: Final = 500


def _access_facts(request: _Request) -> dict[str, object]:
    caller = request.caller
    return {
        "path": request.scope["path"],
        "bytes": request.body_bytes,
        "ms": round((time.perf_counter() - request.began_at) * 1000, 2),
        "client": request.address,
        "key": caller.name if caller else "",
        **request.trace.facts,
    }


def _fingerprint(path: str, headers: Headers, body: bytes) -> bytes:
    digest = hashlib.sha256(body)
    for part in (
        path.encode(),
        headers.get(b"content-type", b""),
        headers.get(b"content-encoding", b""),
    ):
        digest.update(b"\0" + part)
    return digest.digest()


def _replayed(body: bytes) -> Response:
    return Response(body, _ACCEPTED, {"Idempotency-Replayed": "true"}, _JSON)


async def _read_on(message: Mapping[str, object], receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        assert isinstance(chunk, bytes)  # noqa: S101  ASGI
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
