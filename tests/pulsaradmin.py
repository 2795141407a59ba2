"""Pulsar's own `pulsar-admin`, run as operators run it, and what is left of a ledger after it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable, Iterator

from operate.broker.distribution import find_distribution
from operate.broker.java import find_java_home
from tests.brokers import BrokerAddress
from tests.judge import Attempt, Book, Flag, Numbered, Wrong

_WITHIN_S = 120.0
#: A Java that lives for a second needs no second compiler: it takes a third of the time.
_FOR_A_SHORT_LIFE = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


async def pulsar_admin(broker: BrokerAddress, *arguments: str) -> str:
    """What `pulsar-admin topics ...` prints; the test fails if it does not end with 0.

    Takes seconds: it starts a Java.
    """
    done = await asyncio.to_thread(_run, broker, ("topics", *arguments))
    assert done.returncode == 0, f"pulsar-admin topics {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _run(broker: BrokerAddress, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    if broker.started is not None and broker.started.admin_tool() is None:
        return broker.started.pulsar_admin(*arguments)  # a container has it
    tool = find_distribution(lambda _line: None) / "bin" / "pulsar-admin"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PULSAR_", "BOOKIE_"))}
    java = {
        "JAVA_HOME": str(find_java_home()),
        "PULSAR_EXTRA_OPTS": _FOR_A_SHORT_LIFE,
        "PULSAR_GC_LOG": "-Xlog:disable",
    }
    return subprocess.run(
        [tool, "--admin-url", broker.admin_url, *arguments],
        env=inherited | java,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )


def wrong_but_for(book: Book, removed: Iterable[Numbered]) -> list[Flag]:
    """What is wrong with the order if these events were taken away and never delivered.

    A removed event may have been attempted: before, or by a worker that held it already.
    """
    flags = book.verdict(dict.fromkeys(removed, 0.0)).flags
    return [f for f in flags if f.wrong is not Wrong.DUPLICATE or f.earlier is not None]


def passes(book: Book, user: str) -> list[list[int]]:
    """The user's delivered events; a new pass begins where it goes back to an earlier one."""
    found: list[list[int]] = []
    for n in (attempt.n for attempt in book.of(user) if attempt.is_delivered):
        if not found or n < found[-1][-1]:
            found.append([])
        found[-1].append(n)
    return found


def overlaps(book: Book) -> list[Flag]:
    """Two attempts of one user at once; of no pass may there be any."""
    return book.verdict().of(Wrong.OVERLAP)


def next_heads(book: Book, user: str, after: int) -> Iterator[Attempt]:
    """Attempts of what comes behind the user's event of that number."""
    return (attempt for attempt in book.of(user) if attempt.n > after)
