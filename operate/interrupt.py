"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second for one at once.

Outside the event loop both are a `KeyboardInterrupt`. Within it nothing is interrupted but what is
given to `Interrupt.unless`: what starts and stops processes runs to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import uvloop

from operate.together import first_of

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_MANY: Final = 4_096


class Interrupted(Exception):  # noqa: N818  named by the fact
    """The first signal came; caught where the stack is stopped."""


class Interrupt:
    """What the signals of one event loop have asked for."""

    def __init__(self) -> None:
        #: Called at the second signal, and at each one after it.
        self.abort: Callable[[], None] = lambda: None
        self.is_aborted = False
        self._asked = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def arrive(self) -> None:
        """Take a signal."""
        if self.is_asked:
            self.is_aborted = True
            self.abort()
        self._asked.set()

    async def unless(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work; cancels it and raises `Interrupted` when the first signal comes."""
        return await first_of(self._raise_when_asked(), work)

    async def _raise_when_asked(self) -> Any:
        await self._asked.wait()
        raise Interrupted


def run(main: Callable[[Interrupt], Coroutine[Any, Any, T]]) -> T:
    """Run an event loop whose signals go to the `Interrupt` that `main` is given."""

    async def with_signals() -> T:
        interrupt = Interrupt()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt.arrive)
        return await main(interrupt)

    with _handlers_kept():
        return uvloop.run(with_signals())


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Within the block both signals raise `KeyboardInterrupt`, even if SIGINT was ignored."""
    with _handlers_kept():
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """What comes within the block is taken at its end: when it is known what was started there.

    Processes that start meanwhile inherit nothing of that. Elsewhere than in the main thread, which
    alone is interrupted, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    with _handlers_kept():
        for number in _SIGNALS:
            # One that is ignored stays so, also for what is started; one that ends all may do so.
            if callable(signal.getsignal(number)):
                signal.signal(number, lambda number, _: came.append(number))
        yield
    for arrived in came:
        signal.raise_signal(arrived)


@contextlib.contextmanager
def noticed() -> Iterator[socket.socket]:
    """Within the block the socket has something to read whenever a signal has come.

    Python takes a signal between two of its own steps. One that comes behind the last step before a
    system call that waits is taken when that returns, so whoever waits waits for this socket too.
    Elsewhere than in the main thread, which alone is interrupted, it stays empty.
    """
    ours, pythons = socket.socketpair()
    with ours, pythons:
        ours.setblocking(False)
        pythons.setblocking(False)
        if threading.current_thread() is not threading.main_thread():
            yield ours
            return
        before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(before)


def forget(signals: socket.socket) -> None:
    """What was noticed so far; Python takes it by itself."""
    with contextlib.suppress(BlockingIOError):
        while signals.recv(_MANY):
            pass


def wait_for(fileno: int, signals: socket.socket) -> None:
    """Return when the file has something to read, or has ended; a signal interrupts it for sure."""
    waits_for = [fileno, signals.fileno()]
    while fileno not in select.select(waits_for, [], [])[0]:
        forget(signals)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
