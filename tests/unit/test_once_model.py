"""Workers that end anywhere: nothing is lost, and twice comes only what ended unwritten."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum, auto

from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from dispatch.delivery import Delivery
from dispatch.destinations.channels import OnceDestination
from dispatch.once.store import Doubt, Record
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable
from tests.unit.once_desk import ScriptedStore, delivery, name

CHANNELS = ("a", "b", "c")
ENDS = (Delivered(), Refused("no"))


class Crash(Enum):
    NEVER = auto()
    BEFORE_LOOKING_UP = auto()
    BEFORE_THE_ATTEMPT = auto()
    BEFORE_WRITING = auto()
    AFTER_WRITING = auto()


class World:
    """One event, its channels, and a store that outlives the workers."""

    def __init__(self, script: Mapping[str, Sequence[tuple[Outcome, Crash]]]) -> None:
        self.store = _Store(self)
        self.script = {channel: list(steps) for channel, steps in script.items()}
        self.crashed = asyncio.Event()
        #: Attempts that were taken or refused for good.
        self.ended: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        #: Crashes between such an attempt and its record.
        self.unwritten: Counter[str] = Counter()
        self.pending: set[str] = set()
        self.crash: dict[str, Crash] = {}

    async def crash_here(self, channel: str, moment: Crash) -> None:
        await asyncio.sleep(0)
        if self.crash.get(channel) is moment:
            self.crash[channel] = Crash.NEVER
            self.crashed.set()
            await asyncio.Event().wait()

    def next_step(self, channel: str) -> Outcome:
        steps = self.script[channel]
        outcome, self.crash[channel] = steps.pop(0) if steps else (Delivered(), Crash.NEVER)
        return outcome

    async def run(self) -> Outcome:
        for _ in range(40):
            outcome = await self._be_one_worker()
            if outcome is not None and not isinstance(outcome, Unavailable):
                return outcome
        raise AssertionError("it never ends")

    async def _be_one_worker(self) -> Outcome | None:
        self.crashed.clear()
        channels = {channel: _Channel(self, channel) for channel in CHANNELS}
        once = OnceDestination("crm", channels, self.store, topic="topic")
        attempt = asyncio.create_task(once.attempt(delivery()))
        crash = asyncio.create_task(self.crashed.wait())
        await asyncio.wait([attempt, crash], return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        if attempt.done() and not self.crashed.is_set():
            return attempt.result()
        for channel in self.pending:
            self.unwritten[channel] += 1
        self.pending.clear()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        return None


class _Channel:
    def __init__(self, world: World, channel: str) -> None:
        self._world = world
        self._channel = channel

    async def attempt(self, delivery: Delivery) -> Outcome:
        world, channel = self._world, self._channel
        outcome = world.next_step(channel)
        await world.crash_here(channel, Crash.BEFORE_THE_ATTEMPT)
        if outcome in ENDS:
            world.ended[channel] += 1
            world.delivered[channel] += isinstance(outcome, Delivered)
            world.pending.add(channel)
        return outcome

    async def close(self) -> None:
        pass


class _Store(ScriptedStore):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @override
    async def begin(self, names: Sequence[bytes], doubt: Doubt) -> list[Record | None]:
        for channel in CHANNELS:
            await self._world.crash_here(channel, Crash.BEFORE_LOOKING_UP)
        return await super().begin(names, doubt)

    @override
    async def finish(self, records: Mapping[bytes, Record | None]) -> None:
        (channel,) = (c for c in CHANNELS if name(c) in records)
        await self._world.crash_here(channel, Crash.BEFORE_WRITING)
        await super().finish(records)
        self._world.pending.discard(channel)
        await self._world.crash_here(channel, Crash.AFTER_WRITING)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Delivered(), Unavailable("busy"), Refused("no")]), st.sampled_from(Crash)
    ),
    max_size=6,
)


@given(st.fixed_dictionaries(dict.fromkeys(CHANNELS, STEPS)))
def test_nothing_is_lost_and_twice_comes_only_what_ended_unwritten(
    script: dict[str, list[tuple[Outcome, Crash]]],
) -> None:
    async def play() -> None:
        world = World(script)

        outcome = await world.run()

        for channel in CHANNELS:
            assert 1 <= world.ended[channel] <= 1 + world.unwritten[channel]
        if isinstance(outcome, Delivered):
            assert all(world.delivered[channel] for channel in CHANNELS)
        else:
            # It goes to the dead letters, where each channel that lacks it is named.
            assert isinstance(outcome, Refused)
            lacking = [channel for channel in CHANNELS if not world.delivered[channel]]
            assert all(f"{channel}: no" in outcome.reason for channel in lacking)

    asyncio.run(play())
