"""Dead letters without workers, put on their topic as workers do, and `keylane dlq` run on them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatch.deadletter import AttemptHistory, dead_letter
from dispatch.delivery import Delivery
from keylane.broker import OutgoingMessage, Position
from keylane.controlrecord import NOTHING, About, Key, UserRecord
from keylane.names import dead_letter_topic, redrive_topic
from keylane.pulsar import PulsarBroker
from keylane.pulsarlog import PulsarLogs
from keylane.redriven import END
from keylane.routing import partition_of
from keylane.settings import PulsarSettings, Settings
from operate.controlsession import ControlSession
from operate.deadletters.filters import Filters
from operate.deadletters.redriving import Options, redrive_letters
from operate.deadletters.run import user_records
from tests.messages import Message
from tests.processes import Process
from tests.rawtopic import Raw, read_raw
from tests.stage import Stage

PARTITIONS = 3
EVERYTHING = Filters()
#: Where the first partition's events would lie; each partition has a ledger of its own.
_LEDGER = 1_000_000


@dataclass(frozen=True, slots=True)
class Letter:
    """The n-th event of a user, given up. `at_ms` is its last attempt, 0 for none."""

    user: str
    n: int
    entry: int
    reason: str = "max-attempts"
    status: int | None = 503
    at_ms: int = 1_700_000_000_000
    type: str = "keylane.event"
    answer: str = ""
    padding: int = 0

    @property
    def partition(self) -> int:
        return partition_of(self.user, PARTITIONS)

    @property
    def position(self) -> Position:
        return _LEDGER + self.partition, self.entry, -1

    @property
    def id(self) -> str:
        return f"{self.user}-{self.n}"

    @property
    def payload(self) -> bytes:
        return json.dumps({"user": self.user, "n": self.n, "pad": "x" * self.padding}).encode()

    def message(self, topic: str, destination: str = "crm") -> OutgoingMessage:
        properties = {"ce_id": self.id, "ce_type": self.type, "content-type": "application/json"}
        event = Message(
            self.user, self.payload, properties, position=self.position, event_time_ms=self.at_ms
        )
        history = AttemptHistory(
            first_at_ms=self.at_ms,
            last_at_ms=self.at_ms,
            last_status=self.status,
            last_error=f"answered {self.status}",
            last_answer=self.answer,
            given_up_because=self.reason,
        )
        return dead_letter(Delivery(event, self.partition, 8), history, topic, destination)


def letters(users: Sequence[str], events_each: int, **attributes: Any) -> list[Letter]:
    """The n-th events of all users, then the next ones, as they would lie on the main topic."""
    found: list[Letter] = []
    for n in range(1, events_each + 1):
        for user in users:
            found.append(Letter(user, n, entry=len(found), **attributes))
    return found


@dataclass(slots=True)
class DeadLetters:
    """The dead letters of `crm` on a stage, and the topic of what it is to get once more."""

    stage: Stage
    destination: str = "crm"
    _numbers: dict[str, int] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return dead_letter_topic(self.stage.topic, self.destination)

    @property
    def access(self) -> PulsarSettings:
        broker = self.stage.broker
        return PulsarSettings(service_url=broker.service_url, admin_url=broker.admin_url)

    async def put(self, dead: Iterable[Letter]) -> None:
        """Put them there, in this order."""
        await self.put_messages([letter.message(self.stage.topic) for letter in dead])

    async def put_messages(self, messages: Sequence[OutgoingMessage]) -> None:
        async with PulsarLogs(self.access) as logs:
            name = f"test-{len(self._numbers)}"
            self._numbers[name] = len(messages)
            publisher = await logs.publisher(self.topic, name)
            for start in range(0, len(messages), 500):
                numbered = list(enumerate(messages))[start : start + 500]
                await publisher.publish(numbered)

    async def left(self) -> int:
        """The backlog as the broker counts it."""
        async with self.stage.admin() as admin:
            found = await admin.subscription_stats(self.topic, "keylane")
            assert found is not None
            return int(found["msgBacklog"])

    async def redriven(self) -> list[Raw]:
        """Everything that was ever sent once more, as Pulsar's own client reads it."""
        again = redrive_topic(self.stage.topic, self.destination)
        return await asyncio.to_thread(read_raw, self.stage.broker.service_url, again)

    async def sent_so_far(self) -> int:
        again = redrive_topic(self.stage.topic, self.destination)
        async with self.stage.admin() as admin:
            if await admin.partitions(again) is None:
                return 0
            return int((await admin.stats(again))["msgInCounter"])

    def start(self, *words: str) -> Process:
        return self.stage.run("dlq", *words)

    async def dlq(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What `keylane dlq ... --json` with these words prints."""
        return await self.stage.told("dlq", *words, code=code)

    async def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return await self.stage.keylane("dlq", *words, code=code)

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {"topic": self.stage.topic, "pulsar": self.access.model_dump()}
        )

    async def redrive(
        self, filters: Filters = EVERYTHING, *, is_dry: bool = False, rate: float | None = None
    ) -> int:
        """As the command does, in this process; prints JSON and returns the exit code."""
        options = Options(rate=rate, is_dry=is_dry, is_waiting=False, as_json=True)
        return await redrive_letters(self.settings, self.destination, filters, options)

    async def users(self) -> dict[str, UserRecord]:
        """How users stand by the control table."""
        return user_records(await self._say({}))

    async def say(self, user: str, record: UserRecord | None) -> None:
        """What a worker would."""
        await self._say({user: record.encoded() if record else NOTHING})

    async def _say(self, values: dict[str, bytes]) -> dict[str, bytes]:
        broker = PulsarBroker.of(self.access)
        try:
            async with (
                self.stage.admin() as admin,
                ControlSession(self.settings, admin, broker) as control,
            ):
                for user, value in values.items():
                    await control.put(Key(self.destination, About.USER, user), value)
                return control.of(self.destination, About.USER)
        finally:
            await broker.close()


def events_of(messages: Iterable[Raw]) -> dict[str, list[int]]:
    """The numbers of each user's events, in the order of the topic."""
    found: dict[str, list[int]] = {}
    for one in messages:
        if END not in one.properties:
            found.setdefault(one.key, []).append(json.loads(one.value)["n"])
    return found


def ends_of(messages: Iterable[Raw]) -> dict[str, list[int]]:
    """Of each user, how many of its events lie before each of its end marks."""
    seen: dict[str, int] = {}
    found: dict[str, list[int]] = {}
    for one in messages:
        if END in one.properties:
            found.setdefault(one.key, []).append(seen.get(one.key, 0))
        else:
            seen[one.key] = seen.get(one.key, 0) + 1
    return found
