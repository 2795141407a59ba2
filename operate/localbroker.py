"""The broker under a stack that is ours: started before everything else, stopped after it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Final

from keylane.errors import BrokerUnavailable, MissingPiece
from operate.broker.distribution import Progress
from operate.broker.local import LocalBroker, LocalBrokerOptions, start_local_broker

#: What `--broker` may ask for.
AUTO: Final = "auto"
MEMORY: Final = "memory"

_LOOK_EVERY_S: Final = 0.5

NOT_DURABLE: Final = (
    "Everything runs in this one process, on a broker in memory: NOTHING IS DURABLE, all events "
    "are gone when it ends."
)
ONE_COPY: Final = (
    "The local broker keeps one copy of each event and does not wait for the disk (no fsync): for "
    "trying things out, not for data that must survive a power cut."
)

STOPPING: Final = "stopping the broker"
STOPPING_FIRST: Final = (
    f"{STOPPING}; this once it takes some seconds, and leaves an archive of its classes with which "
    "the next one starts sooner"
)


@contextlib.contextmanager
def local_broker(
    which: str, options: LocalBrokerOptions, tell: Progress
) -> Iterator[LocalBroker | None]:
    """A healthy broker until the end of the block; `None` where it has to be one in memory.

    Raises `MissingPiece` if one was asked for that this machine can't have.
    """
    broker = None
    if which != MEMORY:
        tell(ONE_COPY)
        broker = _started(which, options, tell)
    if broker is None:
        tell(NOT_DURABLE)
    try:
        yield broker
    finally:
        if broker:
            tell(STOPPING_FIRST if broker.run.writes_archive else STOPPING)
            _stop(broker)


def _started(which: str, options: LocalBrokerOptions, tell: Progress) -> LocalBroker | None:
    try:
        return start_local_broker(options, progress=tell)
    except MissingPiece as missing:
        if which != AUTO:
            raise
        tell(f"No real broker can be had: {missing}")
        return None


def _stop(broker: LocalBroker) -> None:
    try:
        broker.stop()
    except KeyboardInterrupt:
        # Not orderly any more, but for certain.
        broker.run.send(signal.SIGKILL)
        broker.stop()
        raise


async def keep_alive(broker: LocalBroker, tell: Progress) -> None:
    """Bring the broker back whenever it has died, until cancelled; its data is still there."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        if broker.run.is_alive():
            continue
        tell("the broker ended by itself; starting it again")
        restarting = asyncio.ensure_future(asyncio.to_thread(_restart, broker, tell))
        try:
            await asyncio.shield(restarting)
        except asyncio.CancelledError:
            # A thread can't be cancelled; it ends as soon as the broker has.
            while not restarting.done():
                broker.run.send(signal.SIGKILL)
                await asyncio.wait({restarting}, timeout=_LOOK_EVERY_S)
            raise


def _restart(broker: LocalBroker, tell: Progress) -> None:
    try:
        broker.restart()
    except BrokerUnavailable as error:
        tell(str(error))
