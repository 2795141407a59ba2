"""A running ingest server, from the socket to the last receipt.

It serves before the broker is there and while it is away: readiness says so and events are refused.
The way out, in this order:

1. The door closes: `/readyz` turns 503, new events are refused.
2. Requests inside are served to the end, for `drain_timeout_s` at most.
3. The HTTP server closes its socket and its connections.
4. The publisher closes, then the broker's session: after the last answer that needs them.

A second signal skips the waiting of 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog
import uvicorn
import uvloop
from typing_extensions import override

from ingest.app import IngestApp, make_app
from ingest.door import Door
from ingest.link import BrokerLink
from keylane.admin import PulsarAdmin
from keylane.broker import Broker
from keylane.errors import ConfigurationError
from keylane.settings import Settings
from keylane.topics import ensure_topic

log = structlog.get_logger()

#: Seconds that an idle connection stays open: longer than the 60 s of common load balancers, so
#: that it is not us who close it under a request.
KEEP_ALIVE_S: Final = 75
#: Seconds that answers get to leave after the requests are done.
FAREWELL_S: Final = 1
#: Seconds for the broker's client to close; it waits for a broker that may be gone.
CLOSE_S: Final = 5.0
#: Connections that wait to be accepted.
BACKLOG: Final = 2048

_DONE: Final = 0
_INTERRUPTED: Final = 130


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code; a second signal aborts.

    Raises `ConfigurationError` if the address can't be listened on.
    """
    from keylane.pulsar import PulsarBroker  # the client takes 0.2 s to import

    token = settings.pulsar.token
    broker = PulsarBroker(
        service_url=settings.pulsar.service_url,
        token=token.get_secret_value() if token else None,
        operation_timeout_s=settings.pulsar.operation_timeout_s,
        send_timeout_s=settings.ingest.send_deadline_s,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve_until_signalled(broker, settings))


async def serve_until_signalled(broker: Broker, settings: Settings) -> int:
    """Serve on a broker, which is closed in the end."""
    with _signals() as (stop, abort):
        try:
            async with serving(broker, settings, abort):
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
    broker: Broker, settings: Settings, abort: asyncio.Event | None = None
) -> AsyncIterator[Served]:
    """Serve within this event loop; on leaving, drain, then close the publisher.

    The broker's session stays open: it is the caller's. Once `abort` is set no request is waited
    for. Raises `ConfigurationError` if the address can't be listened on.
    """
    listener = _listen(settings.ingest.host, settings.ingest.port)
    link = BrokerLink(broker, settings.topic, partial(_create_topic, settings))
    served = Served(_url(listener), Door())
    server = _Server(_uvicorn_config(make_app(link, settings.ingest, served.door)))
    try:
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(link.keep_connected())
            running = tasks.create_task(server.serve(sockets=[listener]))
            log.info("ingest.started", url=served.url, topic=settings.topic)
            try:
                yield served
            finally:
                connecting.cancel()
                abort = abort or asyncio.Event()
                await _drain(served.door, abort, settings.ingest.drain_timeout_s)
                server.should_exit = True
                await running
    except BaseExceptionGroup as group:
        # What the caller raised comes out as it was; several at once stay a group.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        listener.close()
        await _close(link)


async def _create_topic(settings: Settings) -> None:
    async with PulsarAdmin(settings.pulsar) as admin:
        for change in await ensure_topic(admin, settings.topic):
            log.info("topic.changed", change=change)


def _uvicorn_config(app: IngestApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
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
    )


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


async def _drain(door: Door, abort: asyncio.Event, timeout_s: float) -> None:
    door.close()
    waits = [asyncio.create_task(wait) for wait in (door.emptied(), abort.wait())]
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
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
    taken = (signal.SIGINT, signal.SIGTERM)
    for number in taken:
        loop.add_signal_handler(number, arrived)
    try:
        yield stop, abort
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise ConfigurationError(
            f"Can't listen on {host} port {port}: {reason}. Choose another with --host and --port, "
            "or KEYLANE_INGEST__HOST and KEYLANE_INGEST__PORT; port 0 is any free one."
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
