"""The copies of a replay, from the topic's partitions to the topic of one destination.

Each partition has a publisher of its own, which the broker knows by name and of which it stores a
sequence once. A sequence is made of the event's place, so a replay that was killed and is run again
goes on behind what is stored, and no event is stored a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from keylane.broker import OutgoingMessage
from keylane.errors import EventTooLarge, KeylaneError
from keylane.moment import moment_ms
from keylane.names import partition_topic, redrive_topic
from keylane.pulsarlog import BATCH, PulsarLogs, SequencedPublisher, sequence_of
from keylane.pulsarmessage import PulsarMessage
from keylane.redriven import REPLAY, origin_of
from operate.pacing import Pacing
from operate.replaying.plan import Part, Replay
from operate.replaying.window import SLACK_MS
from operate.together import all_of

Copy: TypeAlias = tuple[int, OutgoingMessage]


class Cancelled(KeylaneError):  # noqa: N818  named by the fact
    """Somebody cancelled the replay; what was published is delivered all the same."""


@dataclass(slots=True)
class Copied:
    """Events so far: by this run, and by the runs before it.

    `too_large` are those that the broker doesn't take with what a copy has beside the event.
    """

    published: int = 0
    before: int = 0
    too_large: int = 0

    @property
    def events(self) -> int:
        return self.published + self.before + self.too_large


class Copying:
    """Publishes what a replay has found; `open` first.

    `is_wanted` is asked now and then, and `watch` told how far it is.
    """

    def __init__(
        self,
        logs: PulsarLogs,
        topic: str,
        destination: str,
        replay: Replay,
        pacing: Pacing,
        is_wanted: Callable[[], bool],
        watch: Callable[[int], None],
    ) -> None:
        self._logs = logs
        self._topic = topic
        self._again = redrive_topic(topic, destination)
        self._replay = replay
        self._pacing = pacing
        self._reading = pacing.of_reading(len(replay.count.parts))
        self._is_wanted = is_wanted
        self._watch = watch
        self._publishers: dict[int, SequencedPublisher] = {}
        self._stored: dict[int, int] = {}
        self.copied = Copied()

    async def open(self, *, goes_on: bool) -> None:
        """Be the only one who publishes this replay; raises `BrokerUnavailable` if another does."""
        for part in self._replay.count.parts:
            name = publisher_name(self._replay.id, part.partition)
            publisher = await self._logs.publisher(self._again, name)
            self._publishers[part.partition] = publisher
            self._stored[part.partition] = publisher.last
        # The broker forgets a publisher that was away for hours, but not what it published.
        if goes_on and min(self._stored.values(), default=0) < 0:
            await self._recall()

    async def _recall(self) -> None:
        since = max(0, moment_ms(self._replay.started) - SLACK_MS)
        reader = await self._logs.reader(self._again, from_ms=since)
        while batch := await reader.read():
            for message in batch:
                if place := _place_of(message, self._replay.id):
                    partition, sequence = place
                    known = self._stored.get(partition, -1)
                    self._stored[partition] = max(known, sequence)

    async def run(self) -> Copied:
        """Publish what is not published yet; raises `BrokerError` or `Cancelled`.

        After either the same can be begun anew.
        """
        await all_of(*(self._copy(part) for part in self._replay.count.parts))
        return self.copied

    async def _copy(self, part: Part) -> None:
        source = partition_topic(self._topic, part.partition)
        reader = await self._logs.reader(source, from_ms=self._replay.wanted.read_from_ms)
        while batch := await reader.read(self._reading.at_most(BATCH)):
            await self._reading.turn(len(batch))
            await self._publish(part, [m for m in batch if m.position <= part.last])
            if batch[-1].position >= part.last:
                break

    async def _publish(self, part: Part, messages: list[PulsarMessage]) -> None:
        copies = []
        for message in messages:
            try:
                properties = self._replay.wanted.properties_of(message)
            except UnicodeDecodeError:
                continue
            if properties is None:
                continue
            sequence = sequence_of(message.position)
            if sequence <= self._stored[part.partition]:
                self.copied.before += 1
            else:
                copy = self._replay.copy_of(message, properties, self._topic, part.partition)
                copies.append((sequence, copy))
        at_once = self._pacing.at_most(BATCH)
        for first in range(0, len(copies), at_once):
            await self._publish_now(part, copies[first : first + at_once])
        self._watch(self.copied.events)

    async def _publish_now(self, part: Part, copies: list[Copy]) -> None:
        await self._pacing.turn(len(copies))
        if not self._is_wanted():
            raise Cancelled
        publisher = self._publishers[part.partition]
        try:
            await publisher.publish(copies)
        except EventTooLarge:
            await self._publish_each(publisher, copies)
        else:
            self.copied.published += len(copies)
        self._watch(self.copied.events)

    async def _publish_each(self, publisher: SequencedPublisher, copies: list[Copy]) -> None:
        # What was stored of them meanwhile is not stored again.
        for copy in copies:
            try:
                await publisher.publish([copy])
                self.copied.published += 1
            except EventTooLarge:
                self.copied.too_large += 1


def publisher_name(replay: str, partition: int) -> str:
    return f"replay-{replay}-{partition}"


def _place_of(message: PulsarMessage, replay: str) -> tuple[int, int] | None:
    """The partition and the sequence of a copy; None of what is none of this replay."""
    try:
        properties = message.properties()
    except UnicodeDecodeError:
        return None
    origin = origin_of(properties) if properties.get(REPLAY) == replay else None
    return None if origin is None else (origin[0], sequence_of(origin[1]))
