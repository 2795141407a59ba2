"""One pass over what the topic keeps: how much is wanted, and whether the beginning is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from keylane.admin import PulsarAdmin
from keylane.names import partition_topic
from keylane.place import EntryId
from keylane.pulsarlog import PulsarLogs
from keylane.settings import Settings
from operate.pacing import Pacing
from operate.replaying.plan import Count, Tally
from operate.replaying.window import Wanted
from operate.together import all_of

#: Events read in one go.
_AT_ONCE: Final = 100


async def count(
    settings: Settings,
    admin: PulsarAdmin,
    partitions: Sequence[int],
    wanted: Wanted,
    reading: Pacing,
    watch: Callable[[int], None],
) -> Count:
    """Read keys and properties of the window; `watch` hears how many events were read.

    What is published meanwhile does not belong to it, whatever its publisher's clock says: beside
    live events a pass that goes on until it is past the window might take a minute more.
    Raises `BrokerUnavailable`.
    """
    tallies = {partition: Tally(wanted, partition) for partition in partitions}
    begins: list[int] = []
    read = 0

    async def count_one(logs: PulsarLogs, tally: Tally, part: str, end: EntryId) -> None:
        nonlocal read
        reader = await logs.reader(part, from_ms=wanted.read_from_ms, upto=end)
        while batch := await reader.read(reading.at_most(_AT_ONCE)):
            for message in batch:
                tally.add(message)
            read += len(batch)
            watch(read)
            if wanted.is_past(batch[-1]):
                break
            await reading.turn(len(batch))

    # A session of its own, which closes the readers with all that they have fetched ahead.
    async with PulsarLogs(settings.pulsar) as logs:
        parts = {n: partition_topic(settings.topic, n) for n in partitions}
        ends = {n: await admin.last_entry(part) for n, part in parts.items()}
        await all_of(*(count_one(logs, tallies[n], part, ends[n]) for n, part in parts.items()))
        for n, part in parts.items():
            begin = await _begin_ms(logs, part, ends[n])
            if begin is not None:
                begins.append(begin)
    # A partition that had its first event so late looks the same as one that was trimmed.
    begin = max(begins, default=0)
    return Count.of(tallies.values(), begin if begin > wanted.from_ms else None)


async def _begin_ms(logs: PulsarLogs, part: str, end: EntryId) -> int | None:
    """When the earliest event that is kept was published; None if there never was one."""
    reader = await logs.reader(part)
    if kept := await reader.read(1):
        return kept[0].publish_time_ms
    return time.time_ns() // 1_000_000 if end.entry >= 0 else None
