from __future__ import annotations

import pytest

from tests.forks import FULL
from tests.ledger import sequence
from tests.stage import MakeStage
from tests.verifying import VerifyingReceiver, fail_user

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

EVENTS_EACH = 2_000 if FULL else 300
OTHERS = [f"user-{number}" for number in range(2, 6)]


async def test_one_user_who_always_fails_delays_nobody_else(make_stage: MakeStage) -> None:
    stage = await make_stage("crm", partitions=1)
    receiver = await stage.receive(VerifyingReceiver(fail_user("user-1")))
    ledger = await stage.ledger()
    await ledger.post(sequence(["user-1", *OTHERS], EVENTS_EACH))

    backoff = ["--backoff-min", "0.5", "--backoff-max", "2", "--max-attempts", "1000"]
    await stage.dispatch("crm", receiver.url, *backoff)
    await receiver.delivers(EVENTS_EACH * len(OTHERS), 60.0)

    book = receiver.book
    first, last = book.attempts[0].started_at, max(book.of(u)[-1].started_at for u in OTHERS)
    assert last - first < 10.0
    assert book.verdict().flags == ()
    assert ledger.lost(book.delivered) == [("user-1", n + 1) for n in range(EVENTS_EACH)]
    # The stuck one waits behind its first event, which goes on being attempted.
    attempts = len(book.of("user-1"))
    assert {a.n for a in book.of("user-1")} == {1}
    await receiver.attempted("user-1", 1, attempts + 1)
