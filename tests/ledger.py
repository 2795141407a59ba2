"""What ingest promised against what became of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp
import orjson
import pulsar

from keylane.names import dead_letter_topic
from tests.judge import Numbered

#: How long a request to ingest is repeated while it is refused if not told, and how often.
_PATIENCE_S = 60.0
_AGAIN_AFTER_S = 0.25
#: What fits a request whatever the limits of the machine.
BATCH = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message of a dead-letter topic."""

    user: str
    payload: bytes
    properties: Mapping[str, str]
    #: When it was published, in seconds since 1970.
    at: float

    @property
    def event(self) -> Numbered:
        payload = orjson.loads(self.payload)
        return payload["user"], payload["n"]


async def dead_letters(service_url: str, topic: str, destination: str) -> list[DeadLetter]:
    """All there are, from the earliest; takes none away."""
    return await asyncio.to_thread(_read_all, service_url, dead_letter_topic(topic, destination))


def _read_all(service_url: str, topic: str) -> list[DeadLetter]:
    client = pulsar.Client(
        service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    try:
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        found = []
        while reader.has_message_available():
            message = reader.read_next(5_000)
            found.append(
                DeadLetter(
                    message.partition_key(),
                    message.data(),
                    message.properties(),
                    message.publish_timestamp() / 1000,
                )
            )
        return found
    finally:
        client.close()


Events: TypeAlias = Sequence[Numbered]


def sequence(users: Iterable[str], events_each: int, first: int = 1) -> list[Numbered]:
    """The n-th events of all users, then all the next ones."""
    names = list(users)
    return [(user, n) for n in range(first, first + events_each) for user in names]


@dataclass(slots=True)
class Ledger:
    """Posts numbered events to ingest, and keeps what it promised to deliver."""

    url: str
    promised: set[Numbered] = field(default_factory=set)
    #: When events were promised, on the steady clock.
    promised_at: dict[Numbered, float] = field(default_factory=dict)
    #: How long a request is repeated while it is refused.
    patience_s: float = _PATIENCE_S
    #: Requests that were not answered 202, by status; 0 for no answer at all.
    refusals: list[int] = field(default_factory=list)

    async def post(self, events: Events, batch: int = BATCH) -> None:
        """Have all of them accepted, in their order, however often that takes asking."""
        async with aiohttp.ClientSession() as http:
            for start in range(0, len(events), batch):
                await self._insist(http, events[start : start + batch])

    async def keep_posting(
        self,
        users: Sequence[str],
        is_enough: asyncio.Event,
        *,
        every_s: float,
        first: int = 1,
        batch: int = BATCH,
    ) -> None:
        """The next event of each user every so often, until it is enough."""
        for n in itertools.count(first):
            began = time.monotonic()
            await self.post(sequence(users, 1, first=n), batch)
            if is_enough.is_set():
                return
            await asyncio.sleep(max(0.0, began + every_s - time.monotonic()))

    async def _insist(self, http: aiohttp.ClientSession, events: Events) -> None:
        left = await self._ask(http, events)
        deadline = time.monotonic() + self.patience_s
        while left:
            assert time.monotonic() < deadline, f"refused for {self.patience_s} s: {self.refusals}"
            await asyncio.sleep(_AGAIN_AFTER_S)
            left = await self._ask(http, left)

    async def _ask(self, http: aiohttp.ClientSession, events: Events) -> list[Numbered]:
        """Post once; returns the events that are to be sent again."""
        try:
            async with http.post(f"{self.url}/events", json=as_sent(events)) as answer:
                told: dict[str, Any] = await answer.json(content_type=None)
                status = answer.status
        except (aiohttp.ClientError, OSError):
            self.refusals.append(0)
            return list(events)
        if status == 202:
            assert told["accepted"] == len(events)
            self._promise(events)
            return []
        self.refusals.append(status)
        assert status in (429, 503), told
        fates = {fate["index"]: fate["status"] for fate in told.get("events", [])}
        confirmed = [event for i, event in enumerate(events) if fates.get(i) == "confirmed"]
        self._promise(confirmed)
        return [event for i, event in enumerate(events) if fates.get(i) != "confirmed"]

    def _promise(self, events: Events) -> None:
        self.promised.update(events)
        self.promised_at.update(dict.fromkeys(events, time.monotonic()))

    def lost(self, delivered: Iterable[Numbered], dead: Iterable[Numbered] = ()) -> list[Numbered]:
        """What was promised and is nowhere; must be empty."""
        return sorted(self.promised - set(delivered) - set(dead))


def as_sent(events: Events) -> list[dict[str, Any]]:
    return [{"UserID": user, "Payload": {"user": user, "n": n}} for user, n in events]
