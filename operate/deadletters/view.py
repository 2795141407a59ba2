"""What is unacknowledged on a dead-letter topic, looked at without touching it.

A reader gives all that is kept, and the broker's admin interface what the subscription has done
with; who consumes there notices nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Self

from keylane.admin import PulsarAdmin
from keylane.broker import Position
from keylane.errors import ConfigurationError
from keylane.names import DEAD_LETTER_SUBSCRIPTION, WHOLE, dead_letter_topic, partition_topic
from keylane.place import EntryId
from keylane.pulsarlog import PulsarLogs
from operate.deadletters.acknowledged import Acknowledged
from operate.deadletters.letter import DeadLetter, Place


class View:
    """Opened by `open`; its methods raise `BrokerError`.

    `parts` are the topics by partition, one of them if it has none. `ends` is where the last
    reading ended, `batches` how many messages the shared entries that it met hold.
    """

    def __init__(
        self, admin: PulsarAdmin, logs: PulsarLogs, topic: str, parts: Mapping[int, str]
    ) -> None:
        self._admin = admin
        self._logs = logs
        self._topic = topic
        self.parts = parts
        self.ends: dict[int, EntryId] = {}
        self.batches: Counter[tuple[int, EntryId]] = Counter()

    @classmethod
    async def open(cls, admin: PulsarAdmin, logs: PulsarLogs, topic: str, destination: str) -> Self:
        """Raises `ConfigurationError` if the destination has no dead-letter topic."""
        dead = dead_letter_topic(topic, destination)
        partitions = await admin.partitions(dead)
        if partitions is None:
            raise ConfigurationError(
                f"There is no topic {dead}, so nothing was ever dead-lettered there. Is the "
                f"destination called '{destination}', and KEYLANE_TOPIC right?"
            )
        numbers = range(partitions) if partitions else [WHOLE]
        return cls(admin, logs, topic, {n: partition_topic(dead, n) for n in numbers})

    async def acknowledged(self) -> dict[int, Acknowledged]:
        """What the subscription has done with, by partition."""
        return {part: await self._acknowledged(name) for part, name in self.parts.items()}

    async def _acknowledged(self, name: str) -> Acknowledged:
        cursor = await self._admin.cursor(name, DEAD_LETTER_SUBSCRIPTION)
        if cursor is None:
            raise ConfigurationError(
                f"{name} has no subscription {DEAD_LETTER_SUBSCRIPTION}, so nothing says what is "
                "left there. Make it with `keylane topic setup --destination NAME`."
            )
        return Acknowledged.of(cursor)

    async def letters(self) -> AsyncIterator[DeadLetter]:
        """Each that is unacknowledged now, in the order of the topic, with its payload.

        Dead letters that come meanwhile are for the next time.
        """
        self.ends.clear()
        self.batches.clear()
        for part, name in self.parts.items():
            done = await self._acknowledged(name)
            self.ends[part] = done.through
            upto = await self._admin.last_entry(name)
            reader = await self._logs.reader(name, after=_start(done.through), upto=upto)
            while batch := await reader.read():
                for message in batch:
                    if done.has(EntryId.of(message.position)):
                        continue
                    if (place := Place(part, message.position)).is_shared:
                        self.batches[place.entry] += 1
                    yield DeadLetter.of(message, part, self._topic)
                self.ends[part] = EntryId.of(batch[-1].position)


def _start(through: EntryId) -> Position | None:
    return (*through, -1) if through.ledger >= 0 else None
