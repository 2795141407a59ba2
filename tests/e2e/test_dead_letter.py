from __future__ import annotations

import asyncio
import re
import time

import pytest

from keylane.names import dead_letter_topic, partition_topic
from tests.forks import FULL
from tests.judge import Attempt
from tests.ledger import DeadLetter, sequence
from tests.pulsaradmin import pulsar_admin
from tests.stage import MakeStage, Stage, assert_kept
from tests.verifying import FAILED, OK, Answer, VerifyingReceiver

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(90)]

BACKOFF_S = 0.5
#: On an idle machine attempts are at most 0.3 s late. Within the suite other tests keep it busy.
SLACK_S = 0.7 if FULL else 10.0
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def one_dead_letter(stage: Stage, within_s: float = 10.0) -> DeadLetter:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := await stage.dead_letters("crm"):
            assert len(found) == 1
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError("no dead letter came")


def check_fields(stage: Stage, letter: DeadLetter, attempts: list[Attempt]) -> None:
    """All that anybody needs to know what happened, and to send it again."""
    properties = letter.properties
    partition, ledger, entry = attempts[-1].position.split(":")
    expected = {
        "REAL_TOPIC": partition_topic(stage.topic, int(partition)),
        "REAL_SUBSCRIPTION": "crm",
        "ORIGIN_MESSAGE_ID": f"{ledger}:{entry}:{partition}",
        "keylane-attempts": str(len(attempts)),
        "keylane-last-status": str(attempts[-1].status),
        "ce_id": attempts[-1].headers["ce-id"],
        "content-type": "application/json",
    }
    assert expected.items() <= properties.items()
    assert f"answered {attempts[-1].status}" in properties["keylane-last-error"]
    first, last = properties["keylane-first-attempt-at"], properties["keylane-last-attempt-at"]
    assert MOMENT.fullmatch(first)
    assert MOMENT.fullmatch(last)
    assert (first == last) == (len(attempts) == 1)
    assert letter.user == attempts[-1].user
    assert letter.payload == attempts[-1].body


async def test_an_event_is_dead_lettered_after_its_attempts_and_the_next_one_follows(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage("crm")

    def plan(attempt: Attempt) -> Answer:
        return FAILED if (attempt.user, attempt.n) == ("user-1", 1) else OK

    receiver = await stage.receive(VerifyingReceiver(plan, keeps_requests=True))
    ledger = await stage.ledger()
    await ledger.post(sequence(["user-1", "user-2"], 2))
    options = ["--max-attempts", "3", "--backoff-min", str(BACKOFF_S), "--jitter", "0"]
    worker = await stage.dispatch("crm", receiver.url, *options)

    await receiver.attempted("user-1", 2)
    letter = await one_dead_letter(stage)

    book = receiver.book
    attempts = book.of("user-1", 1)
    assert [a.number for a in attempts] == [1, 2, 3]
    for spacing_s, backoff_s in zip(
        book.spacings_s("user-1", 1), [BACKOFF_S, 2 * BACKOFF_S], strict=True
    ):
        assert backoff_s <= spacing_s <= backoff_s + SLACK_S
    check_fields(stage, letter, attempts)
    assert letter.properties["keylane-reason"] == "max-attempts"
    await receiver.delivers(3)
    assert_kept(book, ledger, [letter])
    # Everything is settled: nothing is left for anybody to deliver.
    assert await worker.stop() == 0
    assert await stage.backlog("crm") == 0
    topic = dead_letter_topic(stage.topic, "crm")
    shown = await pulsar_admin(stage.broker, "peek-messages", topic, "-s", "keylane", "-n", "1")
    for said in ("keylane-reason", "max-attempts", "ORIGIN_MESSAGE_ID", letter.user):
        assert said in shown


@pytest.mark.long
async def test_a_rejected_event_is_dead_lettered_after_one_attempt(make_stage: MakeStage) -> None:
    stage = await make_stage("crm")

    def plan(attempt: Attempt) -> Answer:
        return Answer(400 if attempt.n == 1 else 200)

    receiver = await stage.receive(VerifyingReceiver(plan, keeps_requests=True))
    ledger = await stage.ledger()
    await ledger.post(sequence(["user-1"], 2))
    await stage.dispatch("crm", receiver.url)

    await receiver.delivers(1)
    letter = await one_dead_letter(stage)

    assert [(a.n, a.status) for a in receiver.book.of("user-1")] == [(1, 400), (2, 200)]
    check_fields(stage, letter, receiver.book.of("user-1", 1))
    assert letter.properties["keylane-reason"] == "rejected"
    assert_kept(receiver.book, ledger, [letter])
