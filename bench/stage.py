"""What all measurements of a run share: the broker, the scale, topics of the run's own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from bench import admin
from bench.parts import memoryingest, producer
from bench.processes import Keylane, Server, part_arguments, run_part
from bench.scale import PARTITIONS, USERS, Scale, interleaved
from operate.running import Tell

HOST: Final = "127.0.0.1"
_LOADED_WITHIN_S: Final = 600.0
T = TypeVar("T")


@dataclass(slots=True)
class Stage:
    service_url: str
    admin_url: str
    scale: Scale
    folder: Path
    """Of the logs."""
    tell: Tell
    topics: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def topic(self, what: str) -> str:
        """Create a topic of this run."""
        topic = f"bench-{what}-{secrets.token_hex(4)}"
        self.topics.append(topic)
        admin.create_topic(self.service_url, self.admin_url, topic)
        return topic

    def load(self, topic: str, count: int) -> None:
        """Put events on a topic as ingest would have."""
        self.tell(f"putting {count:,} events of {USERS:,} users on a topic")
        options = producer.Options(
            self.service_url, topic, PARTITIONS, USERS, as_ingest=True, count=count
        )
        run_part(producer, options, producer.Result, _LOADED_WITHIN_S)

    def name(self, what: str) -> str:
        """A name for a subscription that this run has not used."""
        return f"{what}-{next(self._numbers)}"

    def ingest(
        self, topic: str, *options: str, settings: Mapping[str, str] | None = None
    ) -> Keylane:
        """With further options, and settings for its environment."""
        arguments = ("ingest", "--host", HOST, "--port", "0", *options)
        return self._keylane(topic, *arguments, settings=settings)

    def memory_ingest(self, workers: int = 1, *, forgets: bool = False) -> Server:
        """Ingest that has its broker within."""
        options = memoryingest.Options(HOST, workers, forgets)
        log = self.folder / f"{self.name('memory-ingest')}.log"
        arguments = part_arguments(memoryingest, options)
        return Server("ingest on the broker in memory", arguments, log, processes=workers)

    def dispatch(self, topic: str, name: str, to: str, *options: str) -> Keylane:
        return self._keylane(topic, "dispatch", name, "--to", to, *options)

    def _keylane(
        self, topic: str, *arguments: str, settings: Mapping[str, str] | None = None
    ) -> Keylane:
        broker = ("--service-url", self.service_url, "--admin-url", self.admin_url)
        log = self.folder / f"{self.name(arguments[0])}.log"
        return Keylane((*arguments, *broker, "--topic", topic), log, settings)

    def rounds(self, arms: Sequence[T], rounds: int | None = None) -> Iterator[tuple[int, T]]:
        return interleaved(arms, rounds or self.scale.rounds)
