"""Several workers of one command, each in a process of its own.

Processes are forks where that is safe: they share what is imported already, memory included, and
are there at once. One that ends by itself is started again, after a delay that grows while it keeps
ending; the others do its work meanwhile. SIGHUP is passed on where settings can be read again.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Final

import structlog

from keylane import hangup
from keylane.errors import ConfigurationError, KeylaneError
from keylane.logs import configure_logging
from keylane.settings import Settings

log = structlog.get_logger()

#: Seconds before a worker that ended is started again: the first time, and at most.
RESTART_MIN_S: Final = 1.0
RESTART_MAX_S: Final = 30.0
#: A worker that lived so long gets the short delay again.
STEADY_S: Final = 60.0
#: sysexits' EX_CONFIG: a worker that can't start would not start the next time either.
EXIT_CONFIGURATION: Final = 78
#: How often a worker looks whether its parent is still there.
LOOK_FOR_PARENT_EVERY_S: Final = 0.5
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)

RunOne = Callable[[str, Settings, int], None]
#: From the settings of now to those of processes that start later; None if they can't be used.
Renew = Callable[[Settings], Settings | None]


@dataclass(slots=True)
class _Worker:
    index: int
    process: BaseProcess | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    delay_s: float = RESTART_MIN_S


@dataclass(slots=True)
class _Signals:
    terminal: hangup.Terminal = field(default_factory=hangup.Terminal)
    received: list[int] = field(default_factory=list)
    is_renewal_due: bool = False

    def take(self, number: int, _: object) -> None:
        if number == signal.SIGHUP and not self.terminal.is_gone():
            self.is_renewal_due = True
        else:
            self.received.append(number)


def supervise(
    name: str, settings: Settings, run_one: RunOne, count: int, renew: Renew | None = None
) -> int:
    """Keep `count` processes running until a signal; drain them all, and return the exit code.

    `run_one` is called in each with the name, the settings and its index from 0. With `renew` it
    has to call `hangup.take` when it is ready for SIGHUP, which each of them gets after `renew`.
    """
    signals = _Signals()
    for number in (*_ENDING, *((signal.SIGHUP,) if renew else ())):
        signal.signal(number, signals.take)
    starting = hangup.held_back if renew else contextlib.nullcontext
    workers = [_Worker(index) for index in range(count)]
    gc.collect()
    gc.freeze()  # or each fork's first collection would copy what they share
    try:
        while not signals.received:
            if renew and signals.is_renewal_due:
                signals.is_renewal_due = False
                settings = _renewed(settings, renew, workers)
            for worker in workers:
                with starting():
                    _look_after(worker, name, settings, run_one)
            _sleep_until_something_ends(workers)
    finally:
        _stop(workers, signals)
    return 0


def _renewed(settings: Settings, renew: Renew, workers: list[_Worker]) -> Settings:
    """The settings for processes that start from now on; those that run read theirs themselves."""
    changed = renew(settings)
    if changed is None:
        return settings
    for process in (worker.process for worker in workers):
        if process is not None and process.pid is not None and process.exitcode is None:
            os.kill(process.pid, signal.SIGHUP)
    return changed


def _look_after(worker: _Worker, name: str, settings: Settings, run_one: RunOne) -> None:
    now = time.monotonic()
    process = worker.process
    if process is not None and process.exitcode is not None:
        if process.exitcode == EXIT_CONFIGURATION:
            raise ConfigurationError("a worker refused its configuration; its log line says why")
        if now - worker.started_at > STEADY_S:
            worker.delay_s = RESTART_MIN_S
        log.error(
            "worker.ended", index=worker.index, code=process.exitcode, restart_in_s=worker.delay_s
        )
        worker.process, worker.start_at = None, now + worker.delay_s
        worker.delay_s = min(worker.delay_s * 2, RESTART_MAX_S)
    if worker.process is None and now >= worker.start_at:
        arguments = (name, settings, worker.index, run_one)
        process = _context().Process(target=_be_worker, args=arguments, name=f"{name}-worker")
        # A fork has our handlers until it sets its own: what came until then would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        worker.process, worker.started_at = process, now


def _context() -> ForkContext | SpawnContext:
    """Processes are spawned where a fork would be broken: beside threads or a Pulsar client."""
    is_alone = threading.active_count() == 1 and "_pulsar" not in sys.modules
    if is_alone and sys.platform == "linux":
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _sleep_until_something_ends(workers: list[_Worker]) -> None:
    sentinels = [w.process.sentinel for w in workers if w.process]
    if sentinels:
        wait(sentinels, timeout=0.2)
    else:
        time.sleep(0.2)


def _stop(workers: list[_Worker], signals: _Signals) -> None:
    """Every signal is passed on: a worker drains at the first and aborts at the second."""
    passed_on = 0
    alive = [w.process for w in workers if w.process]
    while alive:
        if passed_on < max(1, len(signals.received)):
            passed_on += 1
            for process in alive:
                process.terminate()
        wait([p.sentinel for p in alive], timeout=0.2)
        alive = [p for p in alive if p.exitcode is None]


def own_signals() -> Sequence[signal.Signals]:
    """The signals that this process has to take itself.

    A terminal's Ctrl-C reaches the whole group; a worker's parent passes it on as SIGTERM, and
    both would be two signals.
    """
    if multiprocessing.parent_process() is not None:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, signal.SIGINT)


def _be_worker(name: str, settings: Settings, index: int, run_one: RunOne) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    configure_logging(settings.log.format, settings.log.level)
    _end_with_parent()
    try:
        run_one(name, settings, index)
    except KeylaneError as error:
        log.error("worker.failed", index=index, error=str(error))  # noqa: TRY400  no bug
        sys.exit(EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else 1)


def _end_with_parent() -> None:
    """Take the parent's death for SIGTERM, or a killed parent would leave workers behind.

    `multiprocessing` notices it by a pipe that workers which are forked later hold open as well.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(LOOK_FOR_PARENT_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
