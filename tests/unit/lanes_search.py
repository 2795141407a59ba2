"""Looks through many schedules, and tells the one that fails."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Final

from tests.unit.lanes_hangs import ending_what_hangs
from tests.unit.schedules import draw_schedule, run_schedule

#: Processes at a time; where tests run beside each other, these leave the other cores to those.
AT_ONCE: Final = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
#: Seeds that one process looks through before it reports.
BATCH = 250


@dataclass(frozen=True, slots=True)
class Found:
    """A seed whose schedule breaks something, and what."""

    seed: int
    error: str


def first_failure(seeds: range) -> Found | None:
    """The first seed whose schedule breaks something."""
    for seed in seeds:
        if error := failure_of(seed):
            return Found(seed, error)
    return None


def first_failure_or_hang(seeds: range) -> Found | None:
    """The same for what may never end; only for the main thread of a process of its own."""
    for seed in seeds:
        with ending_what_hangs():
            error = failure_of(seed)
        if error:
            return Found(seed, error)
    return None


def failure_of(seed: int, left_out: frozenset[int] = frozenset()) -> str:
    """What goes wrong with that seed; empty if nothing does."""
    try:
        run_schedule(seed, left_out=left_out)
    # Whatever a broken rule makes of the lanes is a finding.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return ""


def search(seeds: range, processes: int, *, tells: bool = False) -> Found | None:
    """Look through these seeds, and stop when one fails."""
    batches = _batches(seeds)
    done = 0
    began = told_at = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        running: dict[Future[Found | None], int] = {}
        for batch in islice(batches, 2 * processes):
            running[pool.submit(first_failure, batch)] = len(batch)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done += running.pop(future)
                if found := future.result():
                    pool.shutdown(cancel_futures=True)
                    return found
                for batch in islice(batches, 1):
                    running[pool.submit(first_failure, batch)] = len(batch)
            now = time.monotonic()
            if tells and (now - told_at > 10 or not running):
                told_at = now
                print(f"{done:,} schedules, {done / (now - began):.0f}/s", flush=True)  # noqa: T201
    return None


def _batches(seeds: range) -> Iterator[range]:
    for start in range(0, len(seeds), BATCH):
        yield seeds[start : start + BATCH]


def shrink(seed: int) -> frozenset[int]:
    """Steps that its schedule doesn't need to fail."""
    steps = len(draw_schedule(seed).steps)
    left_out: frozenset[int] = frozenset()
    size = steps // 2
    while size:
        before = left_out
        for start in range(0, steps, size):
            more = left_out | frozenset(range(start, start + size))
            if more != left_out and failure_of(seed, more):
                left_out = more
        if size == 1 and left_out == before:
            break
        size = max(1, size // 2)
    return left_out
