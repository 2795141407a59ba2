"""Whether ingest holds on to anything of what went through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.figures import UNKNOWN, Figure
from bench.machine import memory_mib
from bench.parts import load
from bench.processes import LivingPart, Server
from bench.scale import BODIES, USERS
from bench.stage import Stage

SECTION: Final = "growth"
#: MiB between the two looks.
AT_MOST: Final = 20.0
#: The CPU an event while as much is forgotten as is learnt, as a multiple of that before.
_COSTS_AT_MOST: Final = 2.0
_BATCH: Final = 100
_WITHIN_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Look:
    """At a server that has answered everything."""

    mib: float
    cpu_us: float
    """An event."""


class Growth:
    """Events without ids through one server, and with ids, which it remembers, through another.

    Both at once: what is told is not a rate. The second one's broker keeps nothing and takes
    little time, so that the ids are what it holds.
    """

    def __init__(self, stage: Stage, ingest: Server, remembering: Server) -> None:
        self._stage = stage
        self._servers = ingest, remembering

    def run(self) -> list[Figure]:
        for server in self._servers:
            server.wait_ready()
        early, late = self._stage.scale.growth_events
        before = self._load(0, early)
        after = self._load(early, late - early)
        between = f"from {early:,} to {late:,} events"
        return [
            _growth(f"ingest's growth {between}", before[0], after[0], AT_MOST),
            _growth(f"ingest's growth {between} with ids", before[1], after[1]),
            *(
                # It forgets as many ids as it learns by then.
                Figure(
                    SECTION,
                    f"CPU an event {what}, after {early:,} events",
                    "us",
                    [new.cpu_us],
                    "before",
                    [old.cpu_us],
                    at_most=_COSTS_AT_MOST,
                )
                for what, old, new in zip(("without ids", "with ids"), before, after, strict=True)
            ),
        ]

    def _load(self, first: int, count: int) -> list[_Look]:
        """Put in so many events; returns what each server holds then, and what they cost."""
        self._stage.tell(f"{SECTION}: {count:,} events to each of two servers")
        ingest, remembering = self._servers
        with (
            LivingPart(load, self._options(ingest, first, count)) as plain,
            LivingPart(load, self._options(remembering, first, count, has_ids=True)) as with_ids,
        ):
            return [
                _look(client, server, count)
                for client, server in ((plain, ingest), (with_ids, remembering))
            ]

    @staticmethod
    def _options(server: Server, first: int, count: int, *, has_ids: bool = False) -> load.Options:
        address = urlsplit(server.url())
        return load.Options(
            address.hostname or "",
            address.port or 0,
            _BATCH,
            BODIES[_BATCH],
            USERS,
            server.pids(),
            requests=count // _BATCH,
            has_ids=has_ids,
            first=first,
        )


def _look(client: LivingPart, server: Server, count: int) -> _Look:
    result = client.hear(load.Result, _WITHIN_S)
    if result.others:
        raise BenchError(f"ingest answered {result.others}")
    cpu_s = UNKNOWN if result.watched_cpu_s is None else result.watched_cpu_s
    return _Look(memory_mib(server.pid)[0], cpu_s * 1e6 / count)


def _growth(name: str, before: _Look, after: _Look, at_most: float | None = None) -> Figure:
    details = {"before": before.mib, "after": after.mib}
    grown = [after.mib - before.mib]
    return Figure(SECTION, name, "MiB", grown, value_at_most=at_most, details=details)
