"""How a worker goes on while the store of deliveries is down."""

from __future__ import annotations

import pytest
import structlog

from dispatch.once import book
from dispatch.once.store import Doubt
from dispatch.outcome import Delivered, Unavailable, Withdrawn
from tests.unit.once_desk import Channel, ScriptedStore, delivery, name, opened

BUSY = Unavailable("busy")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@pytest.fixture
def asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "LEFT_ALONE_S", 0.0)


async def test_what_may_not_begin_any_more_when_the_store_has_answered_is_withdrawn(
    store: ScriptedStore,
) -> None:
    a = Channel()
    once = opened(store, only=a)
    late = delivery()
    late.may_begin = lambda: False

    assert await once.attempt(late) == Withdrawn()
    assert a.attempts == []
    # Nothing says that it was begun.
    assert await store.begin([name("")], Doubt.NONE) == [None]


async def test_without_the_store_events_are_delivered_and_counted(store: ScriptedStore) -> None:
    store.is_down = True
    once = opened(store, only=Channel())

    assert await once.attempt(delivery()) == Delivered()
    assert (once.counts.unasked, once.counts.unrecorded) == (1, 1)


async def test_or_they_wait_where_that_is_wanted(store: ScriptedStore) -> None:
    store.is_down = True
    a = Channel()

    outcome = await opened(store, wait=True, only=a).attempt(delivery())

    # So the breaker takes it for an outage, and no event spends its attempts.
    assert outcome == Unavailable("the store of deliveries does not answer: away", is_down=True)
    assert a.attempts == []


@pytest.mark.usefixtures("asked_at_once")
async def test_a_worker_knows_its_own_deliveries_while_the_store_is_down(
    store: ScriptedStore,
) -> None:
    store.is_down = True
    a, b = Channel(), Channel(BUSY, Delivered())
    once = opened(store, a=a, b=b)

    await once.attempt(delivery())
    assert await once.attempt(delivery()) == Delivered()

    assert (len(a.attempts), len(b.attempts)) == (1, 2)


@pytest.mark.usefixtures("asked_at_once")
async def test_what_could_not_be_written_is_written_when_the_store_is_back(
    store: ScriptedStore,
) -> None:
    once = opened(store, only=Channel())
    store.is_down = True
    await once.attempt(delivery("one"))
    store.is_down = False

    await once.attempt(delivery("two"))

    assert [set(records) for records in store.written] == [{name("", "one"), name("", "two")}]
    await once.attempt(delivery("three"))
    assert set(store.written[-1]) == {name("", "three")}


async def test_what_could_not_be_written_is_written_at_the_end(store: ScriptedStore) -> None:
    once = opened(store, only=Channel())
    store.is_down = True
    await once.attempt(delivery("one"))
    store.is_down = False
    once._book._down_until = 0.0

    await once.close()

    assert [set(records) for records in store.written] == [{name("", "one")}]


async def test_a_store_that_failed_is_left_alone_for_a_moment(store: ScriptedStore) -> None:
    store.is_down = True
    once = opened(store, only=Channel())

    for number in range(5):
        await once.attempt(delivery(f"event-{number}"))

    assert len(store.asked) == 1
    assert once.counts.unasked == 5


@pytest.mark.usefixtures("asked_at_once")
async def test_an_outage_is_logged_once_and_its_end(store: ScriptedStore) -> None:
    once = opened(store, only=Channel())
    with structlog.testing.capture_logs() as logs:
        for is_down in (False, True, True, False, False, True):
            store.is_down = is_down
            await once.attempt(delivery(str(len(logs))))

    assert [log["event"] for log in logs] == ["once.store_down", "once.store_back"] * 1 + [
        "once.store_down"
    ]
    assert logs[0]["consequence"] == "events may be delivered twice"


async def test_a_store_that_does_not_open_is_told_of_and_asked_again(
    store: ScriptedStore,
) -> None:
    store.is_down = True
    once = opened(store, only=Channel())

    with structlog.testing.capture_logs() as logs:
        await once.open()

    assert [log["event"] for log in logs] == ["once.store_down"]


async def test_an_event_is_in_doubt_unless_its_user_was_here_a_moment_ago(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = opened(store, only=Channel())
    await once.attempt(delivery("one"))
    await once.attempt(delivery("two"))
    await once.attempt(delivery("three", redelivered=1))
    monkeypatch.setattr(book, "SEEN_S", -1.0)
    await once.attempt(delivery("four"))

    doubts = [doubt for _, doubt in store.asked]
    assert doubts == [Doubt.UNSEEN, Doubt.NONE, Doubt.REDELIVERED, Doubt.UNSEEN]


async def test_an_answer_that_never_came_leaves_a_user_in_doubt(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "LEFT_ALONE_S", 0.0)
    once = opened(store, only=Channel())
    store.is_down = True
    await once.attempt(delivery("one"))
    store.is_down = False
    await once.attempt(delivery("two"))

    assert [doubt for _, doubt in store.asked] == [Doubt.UNSEEN, Doubt.UNSEEN]


async def test_what_can_not_be_written_is_kept_up_to_a_bound(
    store: ScriptedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "MAX_UNSAVED", 2)
    store.is_down = True
    a = Channel()
    once = opened(store, only=a)
    for event_id in ("one", "two", "three", "one", "three"):
        await once.attempt(delivery(event_id))

    assert a.attempts == ["one", "two", "three", "one"]
