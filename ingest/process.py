"""`keylane ingest`: one server in this process, or several on one port."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

import structlog
import uvloop

from ingest.listener import check_exposure, reserve
from ingest.serve import Place, serve_until_signalled
from keylane.settings import Settings
from keylane.supervisor import supervise

log = structlog.get_logger()


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code; a second signal aborts.

    Raises `ConfigurationError` if the address can't be listened on, or a file that is named in the
    settings can't be used.
    """
    if settings.ingest.workers == 1:
        return _serve(settings, Place())
    check_exposure(settings.ingest)
    if settings.ingest.idempotency_store == "memory:":
        log.warning(
            "idempotency.per_process",
            consequence="a repeat that reaches another of the processes is stored again",
            advice="name a Redis with --idempotency-store redis://HOST",
        )
    with (
        reserve(settings.ingest) as reserved,
        tempfile.TemporaryDirectory(prefix="keylane-ingest-") as folder,
    ):
        port = reserved.getsockname()[1]
        ingest = settings.ingest.model_copy(update={"port": port})
        settings = settings.model_copy(update={"ingest": ingest})
        run_one = partial(_run_one, Path(folder))
        return supervise("ingest", settings, run_one, settings.ingest.workers)


def _run_one(folder: Path, _name: str, settings: Settings, index: int) -> None:
    _serve(settings, Place(index, folder))


def _serve(settings: Settings, place: Place) -> int:
    from keylane.pulsar import PulsarBroker  # the client takes 0.2 s to import

    broker = PulsarBroker.of(settings.pulsar, send_timeout_s=settings.ingest.send_deadline_s)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve_until_signalled(broker, settings, place))
