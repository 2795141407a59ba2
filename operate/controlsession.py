"""What a command says to a destination's workers, and whether they all heard it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from keylane.admin import PulsarAdmin
from keylane.broker import Broker, Table
from keylane.controlrecord import NOTHING, About, Key
from keylane.names import control_topic, full_topic, partition_topic
from keylane.questions import Asker, Kind
from keylane.settings import Settings
from keylane.tabletopic import ensure_table

#: Seconds for the answers of workers that the broker says are there.
CONFIRM_WITHIN_S: Final = 15.0
#: Seconds after which it is looked who still runs: a worker that ended will not confirm.
LOOK_AGAIN_S: Final = 3.0
#: A record by its key, and its token, empty for one that was taken back. Without a key: all records
#: that have the token.
Said: TypeAlias = tuple[Key | None, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """Names of workers: who goes by what was said, and who runs but did not say so in time."""

    confirmed: list[str]
    unconfirmed: list[str]


async def workers_of(admin: PulsarAdmin, topic: str, destination: str) -> set[str]:
    """The names of the workers that the broker counts as the destination's consumers now."""
    partitions = await admin.partitions(full_topic(topic)) or 0
    names: set[str] = set()
    for number in range(partitions):
        found = await admin.subscription_stats(partition_topic(topic, number), destination)
        names |= {str(one["consumerName"]) for one in (found or {}).get("consumers", ())}
    return names


class ControlSession:
    """To be used as an async context manager. Its methods raise `BrokerError`.

    `kept` is the control table: by key what was said and not taken back.
    """

    def __init__(self, settings: Settings, admin: PulsarAdmin, broker: Broker) -> None:
        self._settings = settings
        self._admin = admin
        self._broker = broker
        self._table: Table | None = None
        self.asker = Asker()
        self.kept: dict[str, bytes] = {}

    async def __aenter__(self) -> Self:
        topic = control_topic(self._settings.topic)
        await ensure_table(self._admin, topic)
        self._table = await self._broker.table(topic, self._hear)
        await self.asker.open(self._broker, self._settings.topic)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._table is not None:
            await self._table.close()

    def _hear(self, key: str, value: bytes) -> None:
        if value:
            self.kept[key] = value
        else:
            self.kept.pop(key, None)

    def of(self, destination: str, about: About) -> dict[str, bytes]:
        """What is kept about a destination's users, orders or replays, by user or id."""
        keys = ((Key.read(key), value) for key, value in self.kept.items())
        return {
            key.of: value
            for key, value in keys
            if key is not None and key.destination == destination and key.about is about
        }

    async def put(self, key: Key, value: bytes) -> None:
        """Return when the broker has confirmed it, and `kept` shows it."""
        if self._table is None:
            raise RuntimeError("use ControlSession with `async with`")
        await self._table.put(str(key), value)
        self._hear(str(key), value)

    async def take_back(self, key: Key) -> None:
        await self.put(key, NOTHING)

    async def heard(
        self, destination: str, said: Iterable[Said], timeout_s: float = CONFIRM_WITHIN_S
    ) -> Heard:
        """Wait until all running workers go by what was said.

        Who joins meanwhile is waited for as well, and who leaves is not.
        """
        records = list(said)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        confirmed: set[str] = set()
        running = await self.running(destination)
        while running - confirmed and (left_s := until - loop.time()) > 0:
            within_s = min(left_s, LOOK_AGAIN_S)
            confirmed |= await self._confirmations(destination, records, running, within_s)
            running = await self.running(destination)
        return Heard(sorted(running & confirmed), sorted(running - confirmed))

    async def running(self, destination: str) -> set[str]:
        return await workers_of(self._admin, self._settings.topic, destination)

    async def _confirmations(
        self, destination: str, records: list[Said], running: set[str], timeout_s: float
    ) -> set[str]:
        expected = {(destination, worker) for worker in running}
        asks = (
            self.asker.ask(
                Kind.APPLIED, destination, expected, timeout_s, key=str(key or ""), token=token
            )
            for key, token in records
        )
        answers = [{str(one["worker"]) for one in each} for each in await asyncio.gather(*asks)]
        return set.intersection(*answers)

    async def unconfirmed(
        self, destination: str, token: str, timeout_s: float = CONFIRM_WITHIN_S
    ) -> set[str]:
        """Wait until all running workers go by the records that have this token.

        Returns the workers that did not say so in time; empty also when none runs.
        """
        return set((await self.heard(destination, [(None, token)], timeout_s)).unconfirmed)
