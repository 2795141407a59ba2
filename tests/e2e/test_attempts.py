"""How many attempts an event gets, and when, as its receiver sees them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.contract.clusters import OnPulsar
from tests.forks import FULL
from tests.judge import Numbered
from tests.ledger import sequence
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import FAILED, OK, VerifyingReceiver
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(180)]

ATTEMPTS = 3
#: On an idle machine attempts are at most 0.3 s late. Within the suite other tests keep it busy:
#: there the bound tells a backoff of its own from one that waits for something else.
SLACK_S = 0.5 if FULL else 10.0
BACKOFF_S = 0.5
JITTER = 0.2
USERS = [f"user-{number}" for number in range(80 if FULL else 40)]
FAILING = set(USERS[::2])
EACH = 6
OPTIONS = ["--max-attempts", str(ATTEMPTS), "--jitter", "0"]
OPTIONS += ["--backoff-min", str(BACKOFF_S), "--backoff-max", str(BACKOFF_S)]


def seen(receiver: VerifyingReceiver) -> Counter[Numbered]:
    """Attempts of each event of the users whose events all fail."""
    return Counter((a.user, a.n) for a in receiver.book.attempts if a.user in FAILING)


async def failing_receiver(stage: Stage) -> VerifyingReceiver:
    return await stage.receive(
        VerifyingReceiver(lambda attempt: FAILED if attempt.user in FAILING else OK)
    )


async def everything_ends(stage: Stage, receiver: VerifyingReceiver) -> None:
    """Wait until the healthy are delivered and the others dead-lettered, all of them."""
    await receiver.delivers((len(USERS) - len(FAILING)) * EACH, 60.0)

    async def is_done() -> bool:
        return await stage.backlog("crm") == 0

    await until(is_done, 90.0)


@pytest.mark.long
async def test_every_event_gets_its_attempts_exactly_while_workers_join(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await failing_receiver(stage)
    ledger = await stage.ledger()
    await ledger.post(sequence(USERS, EACH))

    await stage.dispatch("crm", receiver.url, *OPTIONS)
    for user in FAILING:
        await receiver.attempted(user, 1, 2, 20.0)
    await stage.dispatch("crm", receiver.url, *OPTIONS, workers=2)
    await receiver.attempted(USERS[0], 4, 1, 60.0)
    await stage.dispatch("crm", receiver.url, *OPTIONS)
    await everything_ends(stage, receiver)

    letters = await stage.dead_letters("crm")
    assert len(letters) == len(FAILING) * EACH
    assert {letter.properties["keylane-attempts"] for letter in letters} == {str(ATTEMPTS)}
    wrong = {event: times for event, times in seen(receiver).items() if times != ATTEMPTS}
    assert wrong == {}
    assert_kept(receiver.book, ledger, letters)


@pytest.mark.long
async def test_after_an_unload_every_event_gets_its_attempts_and_at_most_twice_as_many(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await failing_receiver(stage)
    ledger = await stage.ledger()
    await ledger.post(sequence(USERS, EACH))

    await stage.dispatch("crm", receiver.url, *OPTIONS)
    await receiver.attempted(USERS[0], 2, 2, 30.0)
    await OnPulsar(stage.broker.service_url, stage.broker.admin_url).unload(stage.topic)
    await everything_ends(stage, receiver)

    letters = await stage.dead_letters("crm")
    times = seen(receiver)
    assert {letter.event for letter in letters} == {
        (user, n) for user in FAILING for n in range(1, EACH + 1)
    }
    assert min(times.values()) >= ATTEMPTS
    assert max(times.values()) <= 2 * ATTEMPTS


@pytest.mark.parametrize("users", [pytest.param(1, marks=pytest.mark.long), 300])
async def test_attempts_come_when_their_backoff_says(make_stage: MakeStage, users: int) -> None:
    stage = await make_stage("crm", partitions=3)
    failing = [f"user-{number}" for number in range(users)]
    receiver = await stage.receive(VerifyingReceiver(lambda _: FAILED))
    ledger = await stage.ledger()
    await stage.dispatch("crm", receiver.url, *OPTIONS, "--jitter", str(JITTER))
    await ledger.post(sequence(failing, 1))

    await asyncio.gather(*(receiver.attempted(user, 1, ATTEMPTS, 30.0) for user in failing))

    spacings = [s for user in failing for s in receiver.book.spacings_s(user, 1)]
    assert len(spacings) == users * (ATTEMPTS - 1)
    print(f"spacings {min(spacings):.3f} to {max(spacings):.3f} s")  # noqa: T201  shown with -rP
    assert min(spacings) >= BACKOFF_S * (1 - JITTER)
    assert max(spacings) <= BACKOFF_S * (1 + JITTER) + SLACK_S
