"""Broker and ingest are killed under load from clients that repeat until they are answered 202."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import orjson
import pulsar
import pytest

from keylane.names import partition_topic
from operate.broker.local import LocalBroker
from operate.broker.ports import choose_port
from tests.brokers import BrokerAddress
from tests.forks import FULL
from tests.processes import Process
from tests.redisserver import RedisServer, redis_program_is_there, redis_server
from tests.stage import MakeStage, Stage
from tests.waiting import until

__all__ = ["redis_program_is_there", "redis_server"]
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(300)]

CLIENTS = 50
EVENTS_A_REQUEST = 3
#: Requests of each client before and after the kill.
REQUESTS = 40 if FULL else 12
PARTITIONS = 3
AGAIN_AFTER_S = 0.1
PATIENCE_S = 120.0


@dataclass(slots=True)
class Client:
    """Sends its user's events, numbered, one request after the other; repeats with the same key."""

    number: int
    accepted: list[str] = field(default_factory=list)
    #: Ids of events of which some answer did not say what became of them.
    doubted: set[str] = field(default_factory=set)
    refusals: Counter[int] = field(default_factory=Counter)
    sent: int = 0

    async def send(self, http: aiohttp.ClientSession, url: str) -> None:
        """One request, until it is accepted."""
        first = self.sent * EVENTS_A_REQUEST
        self.sent += 1
        body = orjson.dumps(
            [
                {"UserID": f"user-{self.number}", "Payload": {"n": n}}
                for n in range(first, first + EVENTS_A_REQUEST)
            ]
        )
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f"client-{self.number}-{self.sent}",
        }
        is_doubted = False
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, ids = await self._ask(http, url, body, headers)
                if status == 202:
                    self.accepted += ids
                    if is_doubted:
                        self.doubted |= set(ids)
                    return
                self.refusals[status] += 1
                is_doubted |= status in (0, 503)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _ask(
        self, http: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, list[str]]:
        try:
            async with http.post(f"{url}/events", data=body, headers=headers) as answer:
                told = await answer.json(content_type=None)
        except (aiohttp.ClientError, OSError):
            return 0, []
        assert answer.status in (202, 409, 503), told
        return answer.status, [event["id"] for event in told.get("events", ())]


@dataclass(frozen=True, slots=True)
class Stored:
    id: str
    user: str
    n: int


async def on_topic(stage: Stage) -> list[Stored]:
    """Everything that is stored, a partition after the other, as an independent reader sees it."""
    return await asyncio.to_thread(_read, stage.broker.service_url, stage.topic)


def _read(service_url: str, topic: str) -> list[Stored]:
    client = pulsar.Client(
        service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    found = []
    try:
        for number in range(PARTITIONS):
            reader = client.create_reader(partition_topic(topic, number), pulsar.MessageId.earliest)
            while reader.has_message_available():
                message = reader.read_next(10_000)
                found.append(
                    Stored(
                        message.properties()["ce_id"],
                        message.partition_key(),
                        orjson.loads(message.data())["n"],
                    )
                )
    finally:
        client.close()
    return found


def assert_stored(clients: list[Client], stored: list[Stored], *, may_repeat: bool) -> None:
    """Each accepted event once and in order; again only if an answer left it in doubt."""
    by_user: dict[str, list[Stored]] = {}
    for event in stored:
        by_user.setdefault(event.user, []).append(event)
    for client in clients:
        of_user = by_user[f"user-{client.number}"]
        firsts = list(dict.fromkeys(event.id for event in of_user))
        assert firsts == client.accepted
        numbers = {event.id: event.n for event in of_user}
        assert [numbers[event_id] for event_id in firsts] == list(range(len(firsts)))
        copies = Counter(event.id for event in of_user)
        again = {event_id for event_id, count in copies.items() if count > 1}
        assert again <= (client.doubted if may_repeat else set())


async def load(clients: list[Client], url: str, requests: int, http: aiohttp.ClientSession) -> None:
    async def all_of(client: Client) -> None:
        for _ in range(requests):
            await client.send(http, url)

    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(all_of(client))


def accepted(clients: list[Client]) -> int:
    return sum(len(client.accepted) for client in clients)


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--deduplicate",)], ids=["plain", "deduplicating"])
async def test_a_killed_broker_loses_nothing_and_reorders_nothing(
    make_stage: MakeStage, own_broker: LocalBroker, options: tuple[str, ...]
) -> None:
    address = BrokerAddress.of(own_broker)
    stage = await make_stage("crm", partitions=PARTITIONS, broker=address)
    env = {"KEYLANE_INGEST__SEND_DEADLINE_S": "3"}
    ingest = await stage.ingest(*options, env=env)
    clients = [Client(number) for number in range(CLIENTS)]
    async with aiohttp.ClientSession() as http:
        loading = asyncio.create_task(load(clients, ingest.url, REQUESTS * 2, http))
        enough = CLIENTS * REQUESTS * EVENTS_A_REQUEST // 2
        await until(lambda: accepted(clients) > enough, 60.0)
        await asyncio.to_thread(own_broker.kill)
        await asyncio.to_thread(own_broker.restart)
        await loading

    assert sum((client.refusals for client in clients), Counter())[503] > 0
    stored = await on_topic(stage)
    assert_stored(clients, stored, may_repeat=not options)


async def test_killed_ingest_loses_nothing_and_reorders_nothing(
    make_stage: MakeStage, redis_server: RedisServer
) -> None:
    stage = await make_stage("crm", partitions=PARTITIONS)
    port = choose_port(0, "--port")
    env = {
        "KEYLANE_INGEST__IDEMPOTENCY_STORE": redis_server.url,
        "KEYLANE_INGEST__IDEMPOTENCY_RESERVATION_S": "3",
    }

    def start() -> Process:
        return stage.run("ingest", "--port", str(port), env=env)

    ingest = start()
    await ingest.ready()
    url = ingest.url
    clients = [Client(number) for number in range(CLIENTS)]
    async with aiohttp.ClientSession() as http:
        loading = asyncio.create_task(load(clients, url, REQUESTS * 2, http))
        enough = CLIENTS * REQUESTS * EVENTS_A_REQUEST // 2
        await until(lambda: accepted(clients) > enough, 60.0)
        ingest.signal(signal.SIGKILL)
        await until(lambda: ingest.exit_code is not None)
        ingest = start()
        await ingest.ready()
        await loading

    assert sum((client.refusals for client in clients), Counter())[0] > 0
    assert_stored(clients, await on_topic(stage), may_repeat=True)
