"""Order through retries: with lanes it holds, and without them the same judge turns red."""

from __future__ import annotations

import pytest

from tests.control import plain_consumer
from tests.forks import FULL
from tests.judge import Attempt, Wrong
from tests.ledger import sequence
from tests.stage import MakeStage, assert_kept
from tests.verifying import VerifyingReceiver, fail_share

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(600 if FULL else 90)]

USERS = [f"user-{number}" for number in range(200)]
EVENTS_EACH = 100 if FULL else 15
EVENTS = sequence(USERS, EVENTS_EACH)
WITHIN_S = 300.0 if FULL else 45.0
FAILING = fail_share(0.1, seed=7)


def place(attempt: Attempt) -> tuple[int, ...]:
    return tuple(map(int, attempt.position.split(":")))


async def test_200_users_stay_in_order_over_three_workers_while_every_tenth_attempt_fails(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=3)
    receiver = await stage.receive(VerifyingReceiver(FAILING))
    ledger = await stage.ledger()
    backoff = ["--backoff-min", "0.2", "--max-attempts", "20"]
    workers = await stage.dispatch("crm", receiver.url, *backoff, workers=3)

    await ledger.post(EVENTS)
    await receiver.delivers(len(EVENTS), WITHIN_S)

    assert_kept(receiver.book, ledger)
    book = receiver.book
    assert len(book.attempts) > 1.05 * len(EVENTS)
    assert all(attempt.number == attempt.seen for attempt in book.attempts)
    # A receiver can fence with the position: it grows from one event of a user to the next.
    for user in USERS:
        places = [place(a) for a in book.of(user) if a.is_delivered]
        assert places == sorted(set(places))
    assert set((await workers.metric("keylane_late_arrivals_total")).values()) == {0}
    assert await workers.stop() == 0
    assert await stage.backlog("crm") == 0


@pytest.mark.long
async def test_plain_negative_acknowledgement_reorders_the_same_events(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=3)
    receiver = await stage.receive(VerifyingReceiver(FAILING))
    ledger = await stage.ledger()
    await ledger.post(EVENTS)

    broker = stage.broker.service_url
    async with plain_consumer(broker, stage.topic, "crm", receiver.url):
        await receiver.delivers(len(EVENTS), WITHIN_S)

    assert ledger.lost(receiver.book.delivered) == []
    inversions = receiver.book.verdict().of(Wrong.INVERSION)
    assert len({flag.user for flag in inversions}) > len(USERS) / 2
