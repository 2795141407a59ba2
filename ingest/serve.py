"""A running ingest server, from the socket to the last receipt.

It serves before the broker is there and while it is away: readiness says so and events are refused.
The way out, in this order:

1. `/readyz` turns 503; for `drain_notice_s` requests are still taken, until balancers have seen it.
   Then the door closes: new events are refused.
2. Requests inside are served to the end, for `drain_timeout_s` at most.
3. The HTTP server closes its socket and its connections.
4. The publisher closes, then the broker's session: after the last answer that needs them.

A second signal skips the waiting of 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog
import uvicorn
from typing_extensions import override

from ingest.app import IngestApp, make_app
from ingest.assembly import assemble
from ingest.door import Door
from ingest.listener import BACKLOG, allow_many_connections, check_exposure, listen, url_of
from ingest.protocol import BoundedProtocol, end_slow_connections
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.ingestsettings import IngestSettings
from keylane.settings import Settings
from keylane.supervisor import own_signals

log = structlog.get_logger()

#: Seconds that an idle connection stays open: longer than the 60 s of common load balancers, so
#: that it is not us who close it under a request.
KEEP_ALIVE_S: Final = 75
#: Seconds that answers get to leave after the requests are done.
FAREWELL_S: Final = 1
#: Seconds for the broker's client to close; it waits for a broker that may be gone.
CLOSE_S: Final = 5.0

_DONE: Final = 0
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Place:
    """Which of several processes this is; `folder` is where they find each other."""

    index: int = 0
    folder: Path | None = None


async def serve_until_signalled(
    broker: Broker, settings: Settings, place: Place | None = None
) -> int:
    """Serve on a broker, which is closed in the end."""
    with _signals() as (stop, abort):
        try:
            async with serving(broker, settings, abort, place):
                await stop.wait()
                log.info("ingest.stopping")
        finally:
            await _close(broker)
        log.info("ingest.stopped")
    return _INTERRUPTED if abort.is_set() else _DONE


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs; `door` is closed when it is to take nothing more."""

    url: str
    door: Door


@contextlib.asynccontextmanager
async def serving(
    broker: Broker,
    settings: Settings,
    abort: asyncio.Event | None = None,
    place: Place | None = None,
) -> AsyncIterator[Served]:
    """Serve within this event loop; on leaving, drain, then close the publisher.

    The broker's session stays open: it is the caller's. Once `abort` is set no request is waited
    for. Raises `ConfigurationError` if the address can't be listened on, or a file that is named in
    the settings can't be used.
    """
    place = place or Place()
    options = settings.ingest
    check_exposure(options)
    allow_many_connections()
    async with contextlib.AsyncExitStack() as exits:
        gate = await assemble(broker, settings, place.index, place.folder, exits)
        exits.push_async_callback(gate.topics.stop, _close)
        server = _Server(_uvicorn_config(make_app(gate, options), options))
        listener = exits.enter_context(contextlib.closing(listen(options)))
        served = Served(url_of(listener, "https" if options.tls_key else "http"), gate.door)
        async with _unpacked(), asyncio.TaskGroup() as tasks:
            # Their errors are ours; they are ended where they were started.
            watching = [
                tasks.create_task(gate.topics.keep_default()),
                tasks.create_task(gate.keys.keep_current()),
                tasks.create_task(
                    end_slow_connections(server.server_state.connections, options.body_timeout_s)
                ),
            ]
            running = tasks.create_task(server.serve(sockets=[listener]))
            log.info("ingest.started", url=served.url, topic=settings.topic, index=place.index)
            try:
                yield served
            finally:
                abort = abort or asyncio.Event()
                await _drain(served.door, abort, options)
                server.should_exit = True
                await running
                for task in watching:
                    task.cancel()


@contextlib.asynccontextmanager
async def _unpacked() -> AsyncIterator[None]:
    try:
        yield
    except BaseExceptionGroup as group:
        # What the caller raised comes out as it was; several at once stay a group.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _uvicorn_config(app: IngestApp, options: IngestSettings) -> uvicorn.Config:
    protocol = type("Bounded", (BoundedProtocol,), {"max_connections": options.max_connections})
    try:
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",  # where FastAPI starts its OpenTelemetry export, if the environment asks
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=FAREWELL_S,
            ssl_certfile=options.tls_certificate,
            ssl_keyfile=options.tls_key,
            ssl_ca_certs=str(options.tls_client_ca) if options.tls_client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if options.tls_client_ca else ssl.CERT_NONE,
        )
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The TLS files can't be used ({error}): see tls_certificate, tls_key and "
            "tls_client_ca. Nothing was started."
        ) from error
    return config


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are ours: the door closes before the server does

    @override
    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            # What it leaves when it is cancelled, or a client does not read, must not outlive it.
            for listening in getattr(self, "servers", []):
                listening.close()
            for connection in list(self.server_state.connections):
                connection.transport.close()


async def _drain(door: Door, abort: asyncio.Event, options: IngestSettings) -> None:
    if options.drain_notice_s:
        door.give_notice()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(abort.wait(), options.drain_notice_s)
    door.close()
    waits = [asyncio.create_task(wait) for wait in (door.emptied(), abort.wait())]
    await asyncio.wait(waits, timeout=options.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if door.inside:
        log.warning("requests.abandoned", requests=door.inside)


class _Closable(Protocol):
    async def close(self) -> None: ...


async def _close(closable: _Closable) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await closable.close()
    except TimeoutError:
        log.warning("broker.abandoned", after_s=CLOSE_S)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Give two events: the first SIGINT or SIGTERM sets the one, the second the other."""
    stop, abort = asyncio.Event(), asyncio.Event()

    def arrived() -> None:
        (abort if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    taken = own_signals()
    for number in taken:
        loop.add_signal_handler(number, arrived)
    try:
        yield stop, abort
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
