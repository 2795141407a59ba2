"""A file gets every user's events in order, whatever happens to workers and topic meanwhile.

What is written at once mostly has no lane (dispatch/passing.py), so this is a path of its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.contract.clusters import OnPulsar
from tests.forks import FULL
from tests.judge import Numbered
from tests.stage import MakeStage
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(300)]

USERS = [f"user-{number}" for number in range(100)]
#: Between two events of a user: each is known when the next one comes.
PERIOD_S = 0.1
#: Between two disturbances.
EVENTS = 8_000 if FULL else 1_000


class Tail:
    """What a file of deliveries has got so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        #: In the order of the lines.
        self.written: list[Numbered] = []

    def look(self) -> int:
        """Read on; how many lines there are."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        # It is just being written.
                        break
                    delivered = orjson.loads(line)
                    self.written.append((delivered["user"], delivered["payload"]["n"]))
                    self._read += len(line)
        return len(self.written)

    async def goes_on(self) -> None:
        """Wait until more is delivered."""
        enough = self.look() + EVENTS
        await until(lambda: self.look() >= enough, 60.0)

    def first_times(self) -> dict[str, list[int]]:
        """The numbers of each user's events, in the order in which they came for the first time."""
        by_user: dict[str, list[int]] = {}
        for user, number in dict.fromkeys(self.written):
            by_user.setdefault(user, []).append(number)
        return by_user


async def test_a_file_is_in_order_after_a_join_an_unload_a_kill_and_a_stop(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("audit", partitions=2)
    path = stage.folder / "audit.jsonl"
    file = Tail(path)
    to = ("audit", f"file:{path}")
    ledger = await stage.ledger()
    is_enough = asyncio.Event()
    feeding = asyncio.create_task(ledger.keep_posting(USERS, is_enough, every_s=PERIOD_S))

    staying = await stage.dispatch(*to)
    await file.goes_on()
    killed = await stage.dispatch(*to)
    await file.goes_on()
    await OnPulsar(stage.broker.service_url, stage.broker.admin_url).unload(stage.topic)
    await file.goes_on()
    await killed.kill()
    await file.goes_on()
    leaving = await stage.dispatch(*to)
    await file.goes_on()
    assert await leaving.stop() == 0
    await file.goes_on()
    is_enough.set()
    await feeding
    await until(lambda: file.look() > 0 and set(file.written) >= ledger.promised, 60.0)

    for user, numbers in file.first_times().items():
        assert numbers == sorted(numbers), user
    assert set(file.written) == ledger.promised
    assert sum((await staying.metric("keylane_late_arrivals_total")).values()) == 0
