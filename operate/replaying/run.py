"""A destination's replays: begun, gone on with, listed, cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from keylane.controlrecord import About, Key, new_token, now
from keylane.errors import ConfigurationError
from keylane.names import redrive_topic
from keylane.pulsarlog import PulsarLogs
from keylane.routing import partition_of
from keylane.settings import Settings
from keylane.topics import ensure_redrive
from operate.overseeing.overseer import Overseer
from operate.pacing import Pacing
from operate.replaying.copying import Cancelled, Copied, Copying, publisher_name
from operate.replaying.counting import count
from operate.replaying.live import LivePause, NotNow
from operate.replaying.plan import Count, Replay, new_id, readable, to_forget
from operate.replaying.window import Wanted

#: Seconds between two looks at what is not delivered yet.
_LOOK_S: Final = 0.5


@dataclass(slots=True)
class Run:
    """One run of the command, told while it is under way and after it ended."""

    replay: Replay
    goes_on: bool
    copied: Copied = field(default_factory=Copied)
    is_complete: bool = False
    is_delivered: bool = False

    @property
    def missing(self) -> int:
        """Events that were counted by an earlier run and are not kept any more."""
        return self.replay.count.events - self.copied.events if self.is_complete else 0


class Replays:
    """Its methods raise `BrokerError`, and `ConfigurationError` for what does not exist."""

    def __init__(self, settings: Settings, overseer: Overseer, destination: str) -> None:
        self._settings = settings
        self._overseer = overseer
        self._destination = destination

    def known(self) -> dict[str, Replay]:
        return readable(self._overseer.control.of(self._destination, About.REPLAY))

    def named(self, replay: str) -> Replay:
        if (found := self.known().get(replay)) is None:
            raise ConfigurationError(
                f"{self._destination} has no replay '{replay}'; nothing was done. See `keylane "
                f"replay {self._destination} --list`."
            )
        return found

    def unfinished(self, wanted: Wanted, asked: tuple[str, str], *, instead: bool) -> Replay | None:
        """What the same command began before, and did not end."""
        for found in self.known().values():
            if found.is_asked_again(wanted, asked, instead=instead):
                return found
        return None

    async def count(
        self, wanted: Wanted, rate: float | None, watch: Callable[[int], None]
    ) -> Count:
        """Of a user only the partition that has the user now is read.

        `rate` is that at which it is to be published, if it is.
        """
        number = await self._overseer.partitions()
        user = wanted.user
        partitions = range(number) if user is None else [partition_of(user, number)]
        reading = Pacing(rate).of_reading(len(partitions))
        return await count(self._settings, self._overseer.admin, partitions, wanted, reading, watch)

    def new(
        self, wanted: Wanted, asked: tuple[str, str], counted: Count, *, instead: bool
    ) -> Replay:
        pause = new_token() if instead else ""
        number = new_id(time.time_ns() // 1_000_000)
        return Replay(number, wanted, asked, instead, counted, now(), pause=pause)

    def pause_of(self, replay: Replay) -> LivePause | None:
        if not replay.instead:
            return None
        return LivePause(self._overseer, self._destination, replay.pause)

    async def publish(self, run: Run, rate: float | None, watch: Callable[[int], None]) -> None:
        """Put the replay on record and publish its copies; live events wait first if they have to.

        Raises `Cancelled`, what `LivePause` raises, and `NotNow` if another process is at it.
        """
        replay, settings = run.replay, self._settings
        if run.goes_on and _state(replay, await self._at_work()) == "running":
            raise NotNow(
                f"Another process is publishing replay {replay.id}; nothing was done. Let it end. "
                "If it was cut off, the broker notices within a minute."
            )
        pause = self.pause_of(replay)
        if pause:
            pause.check()
        await ensure_redrive(self._overseer.admin, settings.topic, self._destination)
        async with PulsarLogs(settings.pulsar) as logs:
            copying = Copying(
                logs,
                settings.topic,
                self._destination,
                replay,
                Pacing(rate),
                lambda: self._is_wanted(replay),
                watch,
            )
            run.copied = copying.copied
            # Before anything is said to workers: of two that go on with it only one gets further.
            await copying.open(goes_on=run.goes_on)
            if not run.goes_on:
                await self._overseer.control.put(self._key(replay), replay.encoded())
            if pause:
                await pause.put()
            await copying.run()
        run.is_complete = True

    async def wait_until_delivered(self, run: Run, watch: Callable[[int], None]) -> None:
        """Return when the destination has everything that it is to get once more.

        `watch` hears how much is left. Raises `Cancelled`.
        """
        again = redrive_topic(self._settings.topic, self._destination)
        while True:
            found = await self._overseer.admin.subscription_stats(again, self._destination)
            left = int((found or {}).get("msgBacklog", 0))
            watch(left)
            if left == 0:
                break
            if not self._is_wanted(run.replay):
                raise Cancelled
            await asyncio.sleep(_LOOK_S)
        run.is_delivered = True

    async def finish(self, run: Run) -> None:
        """Let live events go on, and put on record that it is done."""
        if pause := self.pause_of(run.replay):
            await pause.take_back()
        control = self._overseer.control
        run.replay = run.replay.done(now())
        await control.put(self._key(run.replay), run.replay.encoded())
        for done in to_forget(self.known()):
            await control.take_back(Key(self._destination, About.REPLAY, done))

    async def cancel(self, replay: Replay) -> None:
        """Forget it; a process that runs it stops. What is published is delivered."""
        await self._overseer.control.take_back(self._key(replay))
        if pause := self.pause_of(replay):
            await pause.take_back()

    async def listed(self) -> list[dict[str, Any]]:
        """Oldest first. `state` is `running`, `stopped` (go on with it by its id) or `finished`."""
        found = self.known()
        at_work = await self._at_work() if found else set()
        return [one.as_dict() | {"state": _state(one, at_work)} for one in found.values()]

    async def _at_work(self) -> set[str]:
        """The names of those who publish to the destination's own topic now."""
        again = redrive_topic(self._settings.topic, self._destination)
        admin = self._overseer.admin
        if await admin.partitions(again) is None:
            return set()
        return {str(one["producerName"]) for one in (await admin.stats(again))["publishers"]}

    def _is_wanted(self, replay: Replay) -> bool:
        return str(self._key(replay)) in self._overseer.control.kept

    def _key(self, replay: Replay) -> Key:
        return Key(self._destination, About.REPLAY, replay.id)


def _state(replay: Replay, at_work: set[str]) -> str:
    if replay.finished:
        return "finished"
    names = {publisher_name(replay.id, part.partition) for part in replay.count.parts}
    return "running" if names & at_work else "stopped"
