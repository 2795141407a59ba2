"""Several channels, each once."""

from __future__ import annotations

import asyncio

import pytest

from dispatch.destinations.channels import OnceDestination
from dispatch.once.store import Mark, Record
from dispatch.outcome import Delivered, Disabled, Forbidden, Malformed, Refused, Unavailable
from keylane.errors import ContractError
from tests.unit.once_desk import (
    Channel,
    ImmediateChannel,
    ScriptedStore,
    delivery,
    name,
    opened,
)
from tests.waiting import until

BUSY = Unavailable("busy")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


async def test_every_channel_gets_the_event(store: ScriptedStore) -> None:
    a, b = Channel(), Channel()

    assert await opened(store, a=a, b=b).attempt(delivery()) == Delivered()
    assert (a.attempts, b.attempts) == (["event-1"], ["event-1"])


async def test_channels_are_attempted_at_the_same_time(store: ScriptedStore) -> None:
    a, b = Channel(), Channel()
    a.gate.clear()
    attempt = asyncio.create_task(opened(store, a=a, b=b).attempt(delivery()))

    await until(lambda: bool(b.attempts and store.written))
    a.gate.set()

    assert await attempt == Delivered()


async def test_a_channel_that_has_the_event_does_not_get_it_again(store: ScriptedStore) -> None:
    a, b = Channel(), Channel(BUSY, Delivered())
    once = opened(store, a=a, b=b)

    assert await once.attempt(delivery()) == Unavailable("b: busy")
    assert await once.attempt(delivery()) == Delivered()

    assert (len(a.attempts), len(b.attempts)) == (1, 2)
    assert once.counts.skipped == 1


async def test_the_next_worker_knows_what_the_last_one_delivered(store: ScriptedStore) -> None:
    a = Channel()
    await opened(store, only=a).attempt(delivery())

    outcome = await opened(store, only=a).attempt(delivery(entry=99))

    assert outcome == Delivered()
    assert a.attempts == ["event-1"]
    await opened(store, only=a).attempt(delivery("event-2"))
    assert a.attempts == ["event-1", "event-2"]


async def test_a_channel_that_refused_is_not_asked_while_another_is_unavailable(
    store: ScriptedStore,
) -> None:
    a, b = Channel(Refused("no", 400)), Channel(BUSY, Delivered())

    waiting = await opened(store, a=a, b=b).attempt(delivery())
    outcome = await opened(store, a=a, b=b).attempt(delivery())

    assert waiting == Unavailable("a: no; b: busy")
    assert outcome == Refused("a: no", 400)
    assert (len(a.attempts), len(b.attempts)) == (1, 2)


@pytest.mark.parametrize("refusal", [Malformed("odd"), Forbidden("internal")])
async def test_other_refusals_are_remembered_as_what_they_are(
    store: ScriptedStore, refusal: Malformed | Forbidden
) -> None:
    a = Channel(refusal)
    await opened(store, only=a).attempt(delivery())

    assert await opened(store, only=a).attempt(delivery()) == refusal
    assert len(a.attempts) == 1


async def test_who_sends_a_refused_event_again_has_it_tried_where_it_was_refused(
    store: ScriptedStore,
) -> None:
    a, b = Channel(Refused("no"), Delivered()), Channel()
    once = opened(store, a=a, b=b)
    await once.attempt(delivery(entry=3))

    assert await once.attempt(delivery(entry=4)) == Delivered()
    assert (len(a.attempts), len(b.attempts)) == (2, 1)


async def test_a_delivery_is_in_the_store_before_the_event_counts_as_delivered(
    store: ScriptedStore,
) -> None:
    a, b = Channel(), Channel()
    b.gate.clear()
    attempt = asyncio.create_task(opened(store, a=a, b=b).attempt(delivery()))
    await until(lambda: bool(store.written))

    # What ends here has lost nothing of a's.
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert [list(records) for records in store.written] == [[name("a")]]
    assert await opened(store, a=a, b=Channel()).attempt(delivery()) == Delivered()
    assert len(a.attempts) == 1


@pytest.mark.parametrize("outcome", [BUSY, Disabled("gone", 410)])
async def test_what_may_be_tried_again_is_not_remembered(
    store: ScriptedStore, outcome: Unavailable | Disabled
) -> None:
    a = Channel(outcome, Delivered())
    once = opened(store, only=a)

    assert await once.attempt(delivery()) is outcome
    assert store.written == [{name(""): None}]
    assert await once.attempt(delivery()) == Delivered()


async def test_a_bug_in_one_channel_does_not_keep_the_event_from_the_others(
    store: ScriptedStore,
) -> None:
    a, b = Channel(RuntimeError("bug")), Channel()

    outcome = await opened(store, a=a, b=b).attempt(delivery())

    assert outcome == Unavailable("a: RuntimeError: bug")
    assert len(b.attempts) == 1


async def test_an_event_that_a_channel_can_not_express_is_malformed_there(
    store: ScriptedStore,
) -> None:
    a, b = Channel(ContractError("odd")), Channel()

    assert await opened(store, a=a, b=b).attempt(delivery()) == Malformed("a: odd")
    assert len(b.attempts) == 1


async def test_a_channel_that_never_waits_is_one_too(store: ScriptedStore) -> None:
    file = ImmediateChannel(Delivered())
    once = OnceDestination("crm", {"file": file, "hook": Channel()}, store, topic="topic")

    assert await once.attempt(delivery()) == Delivered()
    assert await once.attempt(delivery()) == Delivered()
    assert file.attempts == 1


async def test_a_record_that_is_met_again_late_lasts_on() -> None:
    clock = [1_000_000]
    store = ScriptedStore(ttl_s=10.0, now_ms=lambda: clock[0])
    a, b = Channel(), Channel(BUSY)
    once = opened(store, a=a, b=b)
    once._book._now_ms = lambda: clock[0]

    for _ in range(5):
        await once.attempt(delivery())
        clock[0] += 6_000

    assert len(a.attempts) == 1


async def test_an_attempt_of_somebody_else_that_never_ended_is_made_again_and_counted(
    store: ScriptedStore,
) -> None:
    store.begun[name("a")] = Record(Mark.STARTED, "another", 1)
    store.begun[name("b")] = Record(Mark.STARTED, store.who, 1)
    a, b = Channel(), Channel()
    once = opened(store, a=a, b=b)

    assert await once.attempt(delivery()) == Delivered()
    assert len(a.attempts) == len(b.attempts) == 1
    assert once.counts.uncertain == 1


async def test_everything_is_closed_with_it(store: ScriptedStore) -> None:
    a, b = Channel(), Channel()

    await opened(store, a=a, b=b).close()

    assert a.is_closed
    assert b.is_closed
    assert store.is_closed
