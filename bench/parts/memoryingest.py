"""Ingest on the broker in memory, as ingest/process.py runs it on a real one.

So its own part can be told from the broker's and its client's. Each of several processes has a
broker of its own.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from typing_extensions import override

from bench.parts import child
from ingest.listener import reserve
from ingest.serve import Place, serve_until_signalled
from keylane.broker import OutgoingMessage, Receipt
from keylane.ingestsettings import IngestSettings
from keylane.logs import configure_logging
from keylane.memory import MemoryBroker, MemoryPublisher
from keylane.memorycluster import MemoryCluster
from keylane.settings import Settings
from keylane.supervisor import supervise
from operate.running import in_memory


class Options(msgspec.Struct):
    host: str
    workers: int = 1
    #: Confirms events without keeping them, so that the process holds nothing but ingest's own.
    forgets: bool = False


class _ForgetfulPublisher(MemoryPublisher):
    @override
    def send(self, message: OutgoingMessage, done: Callable[[Receipt], None]) -> None:
        done((0, 0, -1))


class _ForgetfulBroker(MemoryBroker):
    @override
    async def publisher(
        self, topic: str, *, name: str | None = None, deduplicate: bool = False
    ) -> MemoryPublisher:
        return _ForgetfulPublisher(self.cluster, topic)


def _broker(cluster: MemoryCluster, options: Options) -> MemoryBroker:
    return (_ForgetfulBroker if options.forgets else MemoryBroker)(cluster)


def _serve(options: Options, settings: Settings, place: Place) -> int:
    broker = _broker(in_memory(settings), options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve_until_signalled(broker, settings, place))


def _run_one(options: Options, folder: Path, _name: str, settings: Settings, index: int) -> None:
    _serve(options, settings, Place(index, folder))


def _run(options: Options) -> int:
    configure_logging("json")
    ingest = IngestSettings(host=options.host, port=0, workers=options.workers)
    settings = Settings(ingest=ingest)
    if options.workers == 1:
        return _serve(options, settings, Place())
    with (
        reserve(ingest) as reserved,
        tempfile.TemporaryDirectory(prefix="keylane-bench-") as folder,
    ):
        ingest = ingest.model_copy(update={"port": reserved.getsockname()[1]})
        settings = settings.model_copy(update={"ingest": ingest})
        run_one = partial(_run_one, options, Path(folder))
        return supervise("ingest", settings, run_one, options.workers)


if __name__ == "__main__":
    sys.exit(_run(child.begin(Options)))
