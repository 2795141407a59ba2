"""What operators do with Pulsar's own tool while workers run: docs/pulsar-admin.md has it in words.

Nothing may be missing but what the command took away, nothing out of order, and the workers go on
by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from keylane.names import (
    DEAD_LETTER_SUBSCRIPTION,
    dead_letter_topic,
    full_topic,
    partition_topic,
)
from keylane.routing import partition_of
from tests.judge import Attempt, Book, Numbered
from tests.ledger import Ledger, sequence
from tests.processes import Process
from tests.pulsaradmin import (
    next_heads,
    overlaps,
    passes,
    pulsar_admin,
    wrong_but_for,
)
from tests.stage import MakeStage, Stage
from tests.verifying import Answer, Plan, VerifyingReceiver, accept_all
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.long, pytest.mark.timeout(240)]

OTHERS = [f"user-{number}" for number in range(1, 9)]
#: So often that what a command took from under a worker is missed soon.
RETRIES = ["--backoff-min", "0.3", "--backoff-max", "0.5", "--jitter", "0", "--max-attempts", "999"]
EVERY_S = 0.1
#: A worker waits 2 s for a head that was taken away, and asks four times whether its user has
#: moved; that takes 5 s. The rest is for a busy machine.
GOES_ON_WITHIN_S = 30.0
EXPIRED_AFTER_S = 2
#: Between the broker's moment and ours.
SLACK_S = 2.0


def stuck_user(partition: int, partitions: int) -> str:
    names = (f"stuck-{number}" for number in itertools.count())
    return next(name for name in names if partition_of(name, partitions) == partition)


def failing(users: Sequence[str], status: int = 500) -> Plan:
    return lambda attempt: Answer(status if attempt.user in users else 200)


@contextlib.asynccontextmanager
async def traffic(ledger: Ledger, users: Sequence[str], first: int = 1) -> AsyncIterator[None]:
    """The next event of each user every so often, while the context lasts."""
    is_enough = asyncio.Event()
    posting = asyncio.create_task(
        ledger.keep_posting(users, is_enough, every_s=EVERY_S, first=first)
    )
    try:
        yield
    finally:
        is_enough.set()
        await posting


async def accepted(ledger: Ledger, event: Numbered) -> None:
    await until(lambda: event in ledger.promised, saying=lambda: event)


async def goes_on(book: Book, user: str, after: int) -> int:
    """Wait until an event behind that one is attempted; returns the first such number."""
    await until(lambda: any(next_heads(book, user, after)), GOES_ON_WITHIN_S, lambda: user)
    return next(next_heads(book, user, after)).n


async def drained(stage: Stage, within_s: float = GOES_ON_WITHIN_S) -> None:
    async def is_empty() -> bool:
        return await stage.backlog("crm") == 0

    await until(is_empty, within_s)


def assert_undisturbed(worker: Process, workers: int) -> None:
    """None of its processes ended, and none saw what it should never see."""
    assert worker.exit_code is None
    assert len(worker.logged("dispatch.started")) == workers
    assert worker.logged("worker.ended") == []
    assert worker.logged("arrival.failed") == []


# What takes events away


async def test_only_what_was_skipped_expired_or_cleared_is_missing_and_a_rewind_brings_it_back(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")
    skipped, expired, cleared = stuck = [stuck_user(n, 3) for n in range(3)]
    parts = [partition_topic(stage.topic, n) for n in range(3)]
    receiver = await stage.receive(VerifyingReceiver(failing(stuck)))
    ledger = await stage.ledger()
    worker = await stage.dispatch("crm", receiver.url, *RETRIES, workers=2)
    book, broker, topic = receiver.book, stage.broker, full_topic(stage.topic)
    crm = ["-s", "crm"]

    async with traffic(ledger, [*stuck, *OTHERS]):
        await accepted(ledger, (skipped, 30))
        began = time.monotonic()
        await asyncio.gather(
            pulsar_admin(broker, "skip", *crm, "-n", "5", parts[0]),
            pulsar_admin(broker, "expire-messages", *crm, "-t", f"{EXPIRED_AFTER_S}", parts[1]),
            pulsar_admin(broker, "clear-backlog", *crm, parts[2]),
        )
        ended = time.monotonic()
        heads = [await goes_on(book, user, 1) for user in stuck]
        receiver.plan = accept_all
    await drained(stage)

    removed = ledger.lost(book.delivered)
    assert wrong_but_for(book, removed) == []
    assert heads[0] == 6
    for user, head in zip(stuck, heads, strict=True):
        assert [n for name, n in removed if name == user] == list(range(1, head))
    at = ledger.promised_at
    assert at[expired, heads[1] - 1] <= ended - EXPIRED_AFTER_S + SLACK_S
    assert at[cleared, heads[2] - 1] <= ended + SLACK_S
    assert at[cleared, heads[2]] >= began
    # Of others, who had next to nothing waiting, only what came in that moment.
    assert all(began - SLACK_S <= at[e] <= ended + SLACK_S for e in removed if e[0] in OTHERS)
    assert_undisturbed(worker, 2)

    # What was taken away is kept as long as what was delivered: nothing of it is lost for good.
    last = max(n for _, n in ledger.promised)
    async with traffic(ledger, OTHERS, first=last + 1):
        await pulsar_admin(broker, "reset-cursor", *crm, "-t", "1h", topic)
        await until(lambda: not set(removed) - book.delivered, GOES_ON_WITHIN_S)
    await drained(stage)

    assert ledger.lost(book.delivered) == []
    assert overlaps(book) == []
    assert {user: len(passes(book, user)) for user in stuck} == dict.fromkeys(stuck, 2)
    assert all(len(passes(book, user)) <= 2 for user in OTHERS)
    assert_undisturbed(worker, 2)


async def test_a_worker_that_is_full_works_on_what_was_cleared_until_the_topic_is_unloaded(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver(failing(["stuck"])))
    ledger = await stage.ledger()
    await ledger.post(sequence(["stuck"], 60))
    process = stage.run(
        "dispatch", "crm", "--to", receiver.url, *RETRIES, "--max-lane-events", "50"
    )
    await until(lambda: bool(process.logged("lane.full")), 30.0, process.tail)

    async def receives_nothing() -> bool:
        return sum((await process.metric("keylane_receiving")).values()) == 0

    # A head that is on its way back is waited for.
    await until(receives_nothing, 10.0, process.tail)
    await ledger.post(sequence(OTHERS, 3))  # nobody receives them

    topic = full_topic(stage.topic)
    await pulsar_admin(stage.broker, "clear-backlog", "-s", "crm", topic)
    attempts = len(receiver.book.of("stuck"))
    await receiver.attempted("stuck", 1, attempts + 2)
    async with traffic(ledger, OTHERS, first=4):
        unloaded = asyncio.create_task(pulsar_admin(stage.broker, "unload", topic))
        await receiver.delivers(len(OTHERS), GOES_ON_WITHIN_S)
        await unloaded
    await drained(stage)

    removed = ledger.lost(receiver.book.delivered)
    assert removed == sorted([*sequence(["stuck"], 60), *sequence(OTHERS, 3)])
    assert wrong_but_for(receiver.book, removed) == []
    assert_undisturbed(process, 1)


# What sends events again


async def test_peek_and_unload_lose_nothing_and_a_rewind_delivers_all_once_more_in_order(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=2)
    receiver = await stage.receive(VerifyingReceiver(failing(["stuck"])))
    ledger = await stage.ledger()
    book, broker, topic = receiver.book, stage.broker, full_topic(stage.topic)
    first = await stage.dispatch("crm", receiver.url, *RETRIES)

    async with traffic(ledger, ["stuck", *OTHERS]):
        await accepted(ledger, (OTHERS[0], 20))
        # One who was not there finished nothing: it will know nothing of what was delivered.
        worker = await stage.dispatch("crm", receiver.url, *RETRIES, "--consumer-name", "second")
        assert await first.stop() == 0
        part = partition_topic(stage.topic, partition_of("stuck", 2))
        shown, _ = await asyncio.gather(
            pulsar_admin(broker, "peek-messages", "-s", "crm", "-n", "1", part),
            receiver.attempted("stuck", 1, 8),
        )
        assert "ce_id" in shown

        await pulsar_admin(broker, "unload", topic)
        attempts = len(book.of("stuck"))
        await receiver.attempted("stuck", 1, attempts + 2)
        receiver.plan = accept_all
        await receiver.attempted("stuck", 20, within_s=GOES_ON_WITHIN_S)
        assert book.verdict().flags == ()

        await pulsar_admin(broker, "reset-cursor", "-s", "crm", "-t", "1h", topic)
        await receiver.attempted(OTHERS[0], 1, 2, GOES_ON_WITHIN_S)
    await drained(stage)

    assert ledger.lost(book.delivered) == []
    assert overlaps(book) == []
    for user in OTHERS:
        once, again = passes(book, user)
        assert once == list(range(1, len(once) + 1))
        # But for what this worker itself had just delivered: it acknowledges that once more.
        assert again[:20] == list(range(1, 21))
        assert again == sorted(set(again))
    # The broker forgets its counts with the topic: the attempts began anew.
    numbers = [attempt.number for attempt in book.of("stuck", 1)]
    assert any(b < a for a, b in itertools.pairwise(numbers))
    assert_undisturbed(worker, 1)


# Dead letters


async def test_dead_letters_are_looked_at_skipped_and_cleared_while_others_are_delivered(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)

    def plan(attempt: Attempt) -> Answer:
        return Answer(400 if attempt.user == "rejected" else 200)

    receiver = await stage.receive(VerifyingReceiver(plan))
    ledger = await stage.ledger()
    worker = await stage.dispatch("crm", receiver.url)
    broker, dead = stage.broker, dead_letter_topic(stage.topic, "crm")
    keylane = ["-s", DEAD_LETTER_SUBSCRIPTION]

    async with traffic(ledger, OTHERS):
        await ledger.post(sequence(["rejected"], 12))
        await receiver.attempted("rejected", 12)
        await until(lambda: waiting(stage, 12))
        shown, _ = await asyncio.gather(
            pulsar_admin(broker, "peek-messages", *keylane, "-n", "1", dead),
            pulsar_admin(broker, "skip", *keylane, "-n", "5", dead),
        )
        assert await waiting(stage, 7)
        await ledger.post(sequence(["rejected"], 3, first=13))
        await receiver.attempted("rejected", 15)
        await until(lambda: waiting(stage, 10))
        await pulsar_admin(broker, "clear-backlog", *keylane, dead)
        assert await waiting(stage, 0)
        await ledger.post(sequence(["rejected"], 1, first=16))
        await until(lambda: waiting(stage, 1))
    await drained(stage)

    for said in ("keylane-reason", "rejected", "ORIGIN_MESSAGE_ID"):
        assert said in shown
    letters = await stage.dead_letters("crm")
    assert [letter.event for letter in letters] == sequence(["rejected"], 16)
    assert ledger.lost(receiver.book.delivered, [letter.event for letter in letters]) == []
    dead_at = {letter.event: letter.at for letter in letters}
    assert receiver.book.verdict(dead_at).flags == ()
    assert_undisturbed(worker, 1)


async def waiting(stage: Stage, expected: int) -> bool:
    """Whether so many dead letters are there for somebody to see to."""
    async with stage.admin() as admin:
        found = await admin.subscription_stats(
            dead_letter_topic(stage.topic, "crm"), DEAD_LETTER_SUBSCRIPTION
        )
    return found is not None and found["msgBacklog"] == expected
