"""Several channels of a destination, each served once; and deliveries that are remembered."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from operate.broker.local import LocalBroker
from tests.brokers import BrokerAddress
from tests.forks import FULL
from tests.judge import Attempt, Book
from tests.ledger import Ledger, sequence
from tests.redisserver import RedisServer, redis_program_is_there, redis_server
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import Answer, VerifyingReceiver, fail_heads
from tests.waiting import until

__all__ = ["redis_program_is_there", "redis_server"]
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(300)]

USERS = [f"user-{number}" for number in range(40)]
FAST = ["--backoff-min", "0.1", "--backoff-max", "0.3"]
#: What was sent, and perhaps answered, less than so long before a process was killed.
IN_FLIGHT_S = 0.5


def configured(folder: Path, destination: str) -> list[str]:
    path = folder / "keylane.toml"
    path.write_text(destination, encoding="utf-8")
    return ["--config", str(path)]


def seconds_of_the_same(book: Book) -> list[Attempt]:
    """Attempts of what had been answered 2xx before."""
    found = []
    delivered: set[tuple[str, int]] = set()
    for attempt in book.attempts:
        event = (attempt.user, attempt.n)
        if event in delivered:
            found.append(attempt)
        if attempt.is_delivered:
            delivered.add(event)
    return found


def not_in_flight(book: Book, killed_at: float) -> list[Attempt]:
    """Those again of which the first was not under way when a process was killed."""
    return [
        attempt
        for attempt in seconds_of_the_same(book)
        if not any(
            earlier.started_at - IN_FLIGHT_S
            <= killed_at
            <= (earlier.ended_at or killed_at) + IN_FLIGHT_S
            for earlier in book.of(attempt.user, attempt.n)
            if earlier is not attempt
        )
    ]


@pytest.mark.parametrize("store", ["redis", pytest.param("pulsar:", marks=pytest.mark.long)])
async def test_each_channel_gets_an_event_once_though_another_fails_and_the_worker_is_killed(
    make_stage: MakeStage, redis_server: RedisServer, tmp_path: Path, store: str
) -> None:
    stage = await make_stage("both")
    first = await stage.receive(VerifyingReceiver())
    second = await stage.receive(VerifyingReceiver(fail_heads(3)))
    url = redis_server.url if store == "redis" else store
    config = configured(
        tmp_path,
        f'[destinations.both.channels.first]\nto = "{first.url}"\n'
        f'[destinations.both.channels.second]\nto = "{second.url}"\n'
        f'[destinations.both.once]\nstore = "{url}"\n',
    )
    ledger = await stage.ledger()
    each = 20 if FULL else 6
    await ledger.post(sequence(USERS, each))

    doomed = stage.run("dispatch", "both", *config, *FAST)
    await doomed.ready()
    await first.delivers(len(USERS) * each // 3, 60.0)
    # Between the channels: of many events the first has been delivered, and the second failed.
    other = stage.run("dispatch", "both", *config, *FAST)
    killed_at = await doomed.kill()
    await other.ready()
    await second.delivers(len(USERS) * each, 90.0)
    await first.delivers(len(USERS) * each, 10.0)

    assert not_in_flight(first.book, killed_at) == []
    assert len(seconds_of_the_same(first.book)) <= len(USERS)
    assert not_in_flight(second.book, killed_at) == []
    times = Counter((a.user, a.n) for a in second.book.attempts)
    assert min(times.values()) >= 4
    assert ledger.lost(first.book.delivered) == []
    assert ledger.lost(second.book.delivered) == []


@pytest.mark.long
async def test_without_a_kill_each_channel_gets_each_event_exactly_once(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    stage = await make_stage("both")
    first = await stage.receive(VerifyingReceiver())
    second = await stage.receive(VerifyingReceiver(fail_heads(3)))
    config = configured(
        tmp_path,
        f'[destinations.both.channels.first]\nto = "{first.url}"\n'
        f'[destinations.both.channels.second]\nto = "{second.url}"\n',
    )
    ledger = await stage.ledger()
    await ledger.post(sequence(USERS, 3))
    worker = stage.run("dispatch", "both", *config, *FAST)
    await worker.ready()
    await second.delivers(len(USERS) * 3, 60.0)

    assert set(Counter((a.user, a.n) for a in first.book.attempts).values()) == {1}
    assert set(Counter((a.user, a.n) for a in second.book.attempts).values()) == {4}
    assert_kept(first.book, ledger)
    assert_kept(second.book, ledger)


@pytest.mark.long
async def test_what_was_delivered_before_broker_and_worker_were_killed_is_not_delivered_again(
    make_stage: MakeStage, own_broker: LocalBroker, redis_server: RedisServer, tmp_path: Path
) -> None:
    address = BrokerAddress.of(own_broker)
    stage = await make_stage("crm", broker=address)
    receiver = await stage.receive(VerifyingReceiver(lambda _: Answer(delay_s=0.005)))
    config = configured(
        tmp_path,
        f'[destinations.crm]\nto = "{receiver.url}"\n'
        f'[destinations.crm.once]\nstore = "{redis_server.url}"\n',
    )
    users = [f"user-{number}" for number in range(200)]
    each = 100 if FULL else 20
    await post_all(stage, users, each)
    worker = stage.run("dispatch", "crm", *config)
    await worker.ready()
    await receiver.delivers(len(users) * each // 2, 60.0)
    await asyncio.to_thread(own_broker.kill)
    killed_at = await worker.kill()
    delivered = len(receiver.book.delivered)
    await asyncio.to_thread(own_broker.restart)

    again = stage.run("dispatch", "crm", *config)
    await again.ready(within_s=90.0)
    await receiver.delivers(len(users) * each, 120.0)

    async def is_all_acknowledged() -> bool:
        return await stage.backlog("crm") == 0

    await until(is_all_acknowledged, 60.0)
    assert delivered < len(users) * each
    assert not_in_flight(receiver.book, killed_at) == []
    assert (await again.metric("keylane_acknowledged_total")).values()


async def post_all(stage: Stage, users: list[str], each: int) -> Ledger:
    ledger = await stage.ledger()
    await ledger.post(sequence(users, each))
    return ledger
