from __future__ import annotations

import asyncio
import uuid

import pytest

from ingest.idempotency.course import Phase
from ingest.idempotency.memory import MemoryStore
from ingest.refusals import (
    KeyReused,
    NotConfirmed,
    RefusedByBroker,
    StillRunning,
    StoreUnavailable,
    TooManyInFlight,
)
from keylane.errors import BrokerUnavailable, EventTooLarge, PublishUnconfirmed
from tests.fakes import answers, position
from tests.unit.idempotency_desk import NOW_MS, Desk, answered, ids, read
from tests.waiting import until

RESERVATION_S = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(window_s=86_400, reservation_s=RESERVATION_S, clock=clock)


@pytest.fixture
def desk(store: MemoryStore) -> Desk:
    return Desk(store)


def fates(error: NotConfirmed) -> list[str]:
    assert [event.index for event in error.events] == list(range(len(error.events)))
    return [event.status for event in error.events]


async def failed(desk: Desk, *events: str, key: str | None = None) -> NotConfirmed:
    with pytest.raises(NotConfirmed) as raised:
        await desk.post(*events, key=key)
    return raised.value


async def is_saved(desk: Desk) -> bool:
    return not desk.repeats._courses


async def test_a_repeat_is_answered_the_same_and_stored_once(desk: Desk) -> None:
    first = await desk.post("ann", "bob", key="k")
    again = await desk.post("ann", "bob", key="k", now_ms=NOW_MS + 5_000)

    assert again.body == first.body
    assert ids(first) == desk.sent()


async def test_another_process_gives_the_same_answer(desk: Desk, store: MemoryStore) -> None:
    first = await desk.post("ann", key="k")
    other = Desk(store)

    assert (await other.post("ann", key="k")).body == first.body
    assert other.sent() == []


async def test_a_key_with_another_request_is_refused(desk: Desk, store: MemoryStore) -> None:
    await desk.post("ann", key="k")

    for one in (desk, Desk(store)):
        with pytest.raises(KeyReused):
            await one.post("bob", key="k")
    assert len(desk.sent()) == 1


async def test_a_key_with_another_request_is_refused_while_the_first_waits(desk: Desk) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann", key="k"))
    await until(lambda: len(desk.sent()) == 1)

    with pytest.raises(KeyReused):
        await desk.post("bob", key="k")

    desk.publisher.release()
    await posting


async def test_keys_of_other_topics_are_others(desk: Desk) -> None:
    one = await desk.repeats.begin("topic", b"k", b"f", NOW_MS)
    other = await desk.repeats.begin("other", b"k", b"f", NOW_MS)

    assert one.new_ids(1) != other.new_ids(1)


async def test_while_the_first_is_handled_a_repeat_has_to_wait(
    desk: Desk, store: MemoryStore
) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann", key="k"))
    await until(lambda: len(desk.sent()) == 1)

    for one in (desk, Desk(store)):
        with pytest.raises(StillRunning) as refused:
            await one.post("ann", key="k")
        assert refused.value.retry_after_s > 0

    desk.publisher.release()
    first = await posting
    assert (await desk.post("ann", key="k")).body == first.body


async def test_of_many_at_once_one_is_stored(desk: Desk) -> None:
    results = await asyncio.gather(
        *(desk.post("ann", key="k") for _ in range(20)), return_exceptions=True
    )

    assert len(desk.sent()) == 1
    assert {type(result).__name__ for result in results} <= {"Acceptance", "StillRunning"}


async def test_what_was_refused_is_not_remembered(desk: Desk, store: MemoryStore) -> None:
    attempt = await desk.begin(["ann"], "k")
    await attempt.abandon()

    assert store.size == 0
    await Desk(store).post("bob", key="k")


async def test_what_was_not_sent_is_not_remembered(desk: Desk, store: MemoryStore) -> None:
    desk.publisher.connected = False

    with pytest.raises(BrokerUnavailable):
        await desk.post("ann:1", "bob", key="k")

    assert store.size == 0


async def test_what_found_no_room_is_not_remembered(desk: Desk, store: MemoryStore) -> None:
    desk.intake.events_in_flight = 1_000

    with pytest.raises(TooManyInFlight):
        await desk.post("ann:1", key="k")

    assert store.size == 0


async def test_a_repeat_sends_only_what_is_not_confirmed(desk: Desk) -> None:
    desk.publisher.answer = answers(position(0), PublishUnconfirmed())
    error = await failed(desk, "ann", "bob", "eve", key="k")
    assert fates(error) == ["confirmed", "unknown", "not-sent"]

    accepted = await desk.post("ann", "bob", "eve", key="k", now_ms=NOW_MS + 60_000)

    one, two, three = ids(accepted)
    assert desk.sent() == [one, two, two, three]
    assert [event.id for event in error.events] == [one, two, three]
    assert (await desk.post("ann", "bob", "eve", key="k")).body == accepted.body


async def test_another_process_sends_only_what_is_not_confirmed(
    desk: Desk, store: MemoryStore
) -> None:
    desk.publisher.answer = answers(position(0), PublishUnconfirmed(), position(2))
    error = await failed(desk, "ann", "bob:7", "eve", key="k")
    other = Desk(store)

    accepted = await other.post("ann", "bob:7", "eve", key="k", now_ms=NOW_MS + 60_000)

    assert other.sent() == [event.id for event in error.events][1:]
    assert answered(accepted) == [{"id": event.id, "user": event.user} for event in error.events]


async def test_a_repeat_that_fails_again_tells_of_all_events(desk: Desk) -> None:
    desk.publisher.answer = answers(
        position(0), PublishUnconfirmed(), position(2), BrokerUnavailable()
    )
    await failed(desk, "ann", "bob", "eve", key="k")

    error = await failed(desk, "ann", "bob", "eve", key="k")

    # Sent: ann and bob, bob, eve. Eve was not, but that is not what the record says.
    assert fates(error) == ["confirmed", "confirmed", "unknown"]
    assert len((await desk.post("ann", "bob", "eve", key="k")).body) > 0
    assert len(desk.sent()) == 5


async def test_a_repeat_without_a_broker_still_tells_what_is_stored(desk: Desk) -> None:
    desk.publisher.answer = answers(position(0), PublishUnconfirmed())
    await failed(desk, "ann", "bob", key="k")
    desk.publisher.connected = False

    assert fates(await failed(desk, "ann", "bob", key="k")) == ["confirmed", "unknown"]


async def test_a_repeat_waits_for_receipts_under_way(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.answer = answers(position(0), None)
    assert fates(await failed(desk, "ann", "bob", key="k")) == ["confirmed", "unknown"]
    desk.intake.send_deadline_s = 5.0

    repeat = asyncio.create_task(desk.post("ann", "bob", key="k"))
    await until(lambda: [c.phase for c in desk.repeats._courses.values()] == [Phase.HANDLED])
    with pytest.raises(StillRunning):
        await desk.post("ann", "bob", key="k")
    desk.publisher.release()

    assert ids(await repeat) == desk.sent()
    assert len(desk.sent()) == 2


async def test_a_repeat_sends_what_turned_out_unconfirmed(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.answer = answers(position(0), None, None)
    await failed(desk, "ann", "bob", "eve", key="k")
    desk.intake.send_deadline_s = 5.0
    repeat = asyncio.create_task(desk.post("ann", "bob", "eve", key="k"))
    await asyncio.sleep(0)
    bob, eve = desk.publisher.held
    bob(PublishUnconfirmed())
    eve(position(2))

    one, two, three = ids(await repeat)

    assert desk.sent() == [one, two, three, two]


async def test_a_repeat_does_not_wait_longer_than_the_deadline(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.hold()
    await failed(desk, "ann", key="k")

    assert fates(await failed(desk, "ann", key="k")) == ["unknown"]
    assert len(desk.sent()) == 1


async def test_late_receipts_complete_the_answer(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.hold()
    error = await failed(desk, "ann", "bob:7", key="k")
    desk.publisher.release()
    await until(lambda: is_saved(desk))

    other = Desk(store)
    accepted = await other.post("ann", "bob:7", key="k")

    assert other.sent() == []
    assert ids(accepted) == [event.id for event in error.events]
    assert answered(await other.post("bob:7"))[0]["duplicate"] is True


async def test_late_receipts_in_part_leave_the_rest_to_the_repeat(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.hold()
    await failed(desk, "ann", "bob", key="k")
    first, second = desk.publisher.held
    first(PublishUnconfirmed())
    second(position(1))
    await until(lambda: is_saved(desk))
    other = Desk(store)

    accepted = await other.post("ann", "bob", key="k")

    assert other.sent() == [ids(accepted)[0]]


async def test_while_receipts_are_under_way_another_process_has_to_wait(
    store: MemoryStore,
) -> None:
    desk, other = Desk(store, deadline_s=0.05), Desk(store)
    desk.publisher.hold()
    await failed(desk, "ann", key="k")

    with pytest.raises(StillRunning):
        await other.post("ann", key="k")

    desk.publisher.release()
    await until(lambda: is_saved(desk))
    await other.post("ann", key="k")
    assert other.sent() == []


async def test_a_sender_who_leaves_leaves_an_answer_behind(desk: Desk) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann", key="k"))
    await until(lambda: len(desk.sent()) == 1)
    posting.cancel()
    await asyncio.wait([posting])
    desk.publisher.release()
    await until(lambda: is_saved(desk))

    assert ids(await desk.post("ann", key="k")) == desk.sent()
    assert len(desk.sent()) == 1


async def test_a_sender_who_leaves_while_the_answer_is_recorded_does_not_stop_that(
    desk: Desk, store: MemoryStore
) -> None:
    attempt = await desk.begin(["ann"], "k")
    desk.line.is_free.clear()
    storing = asyncio.create_task(attempt.store(read(attempt, ["ann"]), desk.intake))
    await until(lambda: [c.phase for c in desk.repeats._courses.values()] == [Phase.CLOSING])
    storing.cancel()
    await asyncio.wait([storing])
    desk.line.is_free.set()
    await until(lambda: is_saved(desk))

    other = Desk(store)
    assert ids(await other.post("ann", key="k")) == desk.sent()
    assert other.sent() == []


async def test_after_a_sender_left_and_a_crash_the_ids_are_still_the_same(
    desk: Desk, store: MemoryStore, clock: Clock
) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann", key="k"))
    await until(lambda: len(desk.sent()) == 1)
    posting.cancel()
    await asyncio.wait([posting])
    await until(lambda: [c.phase for c in desk.repeats._courses.values()] == [Phase.WAITING])
    desk.crash()
    clock.now += RESERVATION_S + 1
    other = Desk(store)

    await other.post("ann", key="k", now_ms=NOW_MS + 60_000)

    assert other.sent() == desk.sent()


async def test_an_event_too_large_leaves_what_was_stored_known(desk: Desk) -> None:
    desk.publisher.answer = answers(position(0), EventTooLarge(), EventTooLarge())
    with pytest.raises(RefusedByBroker):
        await desk.post("ann", "bob", key="k")

    with pytest.raises(RefusedByBroker) as again:
        await desk.post("ann", "bob", key="k")

    assert fates(again.value) == ["confirmed", "too-large"]
    assert [error.index for error in again.value.errors] == [1]
    assert desk.publisher.keys() == ["ann", "bob", "bob"]


async def test_a_request_of_which_nothing_can_be_stored_is_forgotten(
    desk: Desk, store: MemoryStore
) -> None:
    desk.publisher.answer = answers(EventTooLarge())

    with pytest.raises(RefusedByBroker):
        await desk.post("ann", key="k")

    assert store.size == 0


async def test_a_dead_process_blocks_its_key_for_the_reservation(
    desk: Desk, store: MemoryStore, clock: Clock
) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann", "bob:7", key="k"))
    await until(lambda: len(desk.sent()) == 2)
    desk.crash()
    posting.cancel()
    other = Desk(store)

    clock.now += RESERVATION_S - 1
    with pytest.raises(StillRunning):
        await other.post("ann", "bob:7", key="k")
    with pytest.raises(StillRunning):
        await other.post("bob:7")
    clock.now += 2
    accepted = await other.post("ann", "bob:7", key="k", now_ms=NOW_MS + 60_000)

    assert ids(accepted) == other.sent() == desk.sent()
    assert accepted.duplicates == 0


async def test_a_dead_process_leaves_what_it_recorded(store: MemoryStore, clock: Clock) -> None:
    desk, other = Desk(store, deadline_s=0.05), Desk(store)
    desk.publisher.answer = answers(position(0), None)
    error = await failed(desk, "ann", "bob", key="k")
    desk.crash()
    clock.now += RESERVATION_S + 1

    await other.post("ann", "bob", key="k")

    assert other.sent() == [error.events[1].id]


async def test_a_living_process_keeps_its_reservation() -> None:
    store = MemoryStore(window_s=60, reservation_s=0.15)
    desk, other = Desk(store, deadline_s=0.05, reservation_s=0.15), Desk(store)
    desk.publisher.hold()
    await failed(desk, "ann:1", key="k")
    passed = desk.line.exchanges

    await until(lambda: desk.line.exchanges > passed + 6)

    with pytest.raises(StillRunning):
        await other.post("ann:1", key="k")
    with pytest.raises(StillRunning):
        await other.post("ann:1")
    desk.publisher.release()
    await until(lambda: is_saved(desk))
    assert len(store._leases.entries) == 0


async def test_an_owner_that_was_overtaken_does_not_undo_what_is_known(
    store: MemoryStore, clock: Clock
) -> None:
    desk, other = Desk(store, deadline_s=0.05), Desk(store)
    desk.publisher.hold()
    await failed(desk, "ann", key="k")
    clock.now += RESERVATION_S + 1
    accepted = await other.post("ann", key="k")
    desk.publisher.release(PublishUnconfirmed())
    await until(lambda: is_saved(desk))

    assert (await other.post("ann", key="k")).body == accepted.body
    assert len(other.sent()) == 1


async def test_an_id_is_stored_once(desk: Desk) -> None:
    first = await desk.post("ann:1", "bob:2", "eve")
    again = await desk.post("ann:1", "tom:3", "eve")

    assert answered(first)[:2] == [{"id": "1", "user": "ann"}, {"id": "2", "user": "bob"}]
    assert answered(again)[:2] == [
        {"id": "1", "user": "ann", "duplicate": True},
        {"id": "3", "user": "tom"},
    ]
    assert (first.duplicates, again.duplicates) == (0, 1)
    assert desk.publisher.keys() == ["ann", "bob", "eve", "tom", "eve"]


async def test_a_request_of_nothing_but_repeats_sends_nothing(desk: Desk) -> None:
    await desk.post("ann:1")

    again = await desk.post("ann:1")

    assert (again.duplicates, len(desk.sent())) == (1, 1)


async def test_a_duplicate_is_answered_the_same_on_a_repeat_of_its_request(desk: Desk) -> None:
    await desk.post("ann:1")
    desk.publisher.answer = answers(position(0), PublishUnconfirmed())
    error = await failed(desk, "ann:1", "bob", key="k")
    assert fates(error) == ["confirmed", "unknown"]

    accepted = await desk.post("ann:1", "bob", key="k")

    assert [event.get("duplicate") for event in answered(accepted)] == [True, None]


async def test_an_id_that_is_being_stored_stops_the_whole_request(desk: Desk) -> None:
    desk.publisher.hold()
    posting = asyncio.create_task(desk.post("ann:1"))
    await until(lambda: len(desk.sent()) == 1)

    with pytest.raises(StillRunning):
        await desk.post("bob:2", "ann:1", key="k")

    assert len(desk.sent()) == 1
    desk.publisher.release()
    await posting
    desk.publisher.answer = position
    assert (await desk.post("bob:2", "ann:1", key="k")).duplicates == 1


async def test_an_id_that_was_not_confirmed_may_be_sent_again(desk: Desk) -> None:
    desk.publisher.answer = answers(position(0), PublishUnconfirmed())
    await failed(desk, "ann:1", "bob:2", "eve:3")

    again = await desk.post("ann:1", "bob:2", "eve:3")

    assert desk.sent() == ["1", "2", "2", "3"]
    assert again.duplicates == 1


async def test_an_id_whose_receipt_is_late_is_known_in_the_end(store: MemoryStore) -> None:
    desk = Desk(store, deadline_s=0.05)
    desk.publisher.hold()
    await failed(desk, "ann:1")
    with pytest.raises(StillRunning):
        await desk.post("ann:1")

    desk.publisher.release()
    await until(lambda: is_saved(desk))

    assert (await desk.post("ann:1")).duplicates == 1
    assert desk.sent() == ["1"]


async def test_ids_are_forgotten_after_the_window(
    desk: Desk, store: MemoryStore, clock: Clock
) -> None:
    await desk.post("ann:1", key="k")
    clock.now += 86_401

    await desk.post("ann:1", key="k")

    assert desk.sent() == ["1", "1"]


async def test_without_key_and_ids_the_store_is_not_asked(desk: Desk) -> None:
    await desk.post("ann", "bob")

    assert desk.line.exchanges == 0
    assert desk.repeats._courses == {}


async def test_a_request_costs_two_or_three_exchanges(desk: Desk) -> None:
    await desk.post("ann", key="k")
    assert desk.line.exchanges == 2
    await desk.post("ann:1", *(f"bob:{n}" for n in range(2, 50)))
    assert desk.line.exchanges == 4
    await desk.post("ann:51", key="k2")
    assert desk.line.exchanges == 7


async def test_without_a_store_nothing_is_recognized() -> None:
    desk = Desk(None)

    await desk.post("ann:1", key="k")
    await desk.post("ann:1", key="k")

    assert desk.sent() == ["1", "1"]
    await desk.repeats.close()


async def test_with_a_key_ids_are_those_of_its_first_moment(desk: Desk) -> None:
    attempt = await desk.begin(["ann", "bob"], "k")

    one, two = (uuid.UUID(event.id) for event in read(attempt, ["ann", "bob"]))

    assert one.version == two.version == 7
    assert one.variant == uuid.RFC_4122
    assert one.int >> 80 == two.int >> 80 == NOW_MS
    assert one != two


async def test_ids_asked_for_in_parts_are_the_same(desk: Desk) -> None:
    attempt = await desk.begin(["ann"], "k")
    made = [*attempt.new_ids(1), *attempt.new_ids(2)]
    await attempt.abandon()

    again = await desk.begin(["ann"], "k")

    assert again.new_ids(3) == made
    assert len(set(made)) == 3


async def test_with_the_store_down_nothing_is_sent(desk: Desk) -> None:
    failures: list[int] = []
    desk.repeats.on_store_failure(lambda: failures.append(1))
    desk.line.is_cut = True

    with pytest.raises(StoreUnavailable):
        await desk.post("ann", key="k")
    with pytest.raises(StoreUnavailable):
        await desk.post("ann:1")

    assert desk.sent() == []
    assert len(failures) >= 2
    await desk.post("ann")
    desk.line.is_cut = False
    await desk.post("ann:1", key="k")


async def test_a_store_that_fails_between_key_and_ids_lets_nothing_be_sent(
    store: MemoryStore,
) -> None:
    desk = Desk(store, reservation_s=0.05)
    desk.line.cut_after = 1

    with pytest.raises(StoreUnavailable):
        await desk.post("ann:1", key="k")

    assert desk.sent() == []
    desk.line.cut_after, desk.line.is_cut = None, False
    await until(lambda: is_saved(desk))
    assert store.size == 0


async def test_set_so_requests_go_on_without_the_store(store: MemoryStore) -> None:
    desk = Desk(store, on_failure="accept")
    failures: list[int] = []
    desk.repeats.on_store_failure(lambda: failures.append(1))
    desk.line.is_cut = True

    first = await desk.post("ann", key="k")
    await desk.post("ann:1")
    await desk.post("ann:1")

    assert desk.sent() == [*ids(first), "1", "1"]
    assert len(failures) == 1  # it is left alone for a while


async def test_what_was_confirmed_is_accepted_though_the_store_failed(
    store: MemoryStore,
) -> None:
    desk, other = Desk(store, reservation_s=0.05), Desk(store)
    desk.line.cut_after = 2

    accepted = await desk.post("ann:1", "bob", key="k")
    assert ids(accepted) == desk.sent()
    # It is known here, and there once the store is back.
    assert (await desk.post("ann:1", "bob", key="k")).body == accepted.body
    with pytest.raises(StillRunning):
        await other.post("ann:1", "bob", key="k")
    desk.line.cut_after, desk.line.is_cut = None, False
    await until(lambda: is_saved(desk))

    assert (await other.post("ann:1", "bob", key="k")).body == accepted.body
    assert other.sent() == []


async def test_outcomes_that_wait_for_the_store_are_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.idempotency.repeats.MAX_UNSAVED", 2)
    for index in range(5):
        desk.line.cut_after, desk.line.is_cut = 1, False
        await desk.post(f"ann:{index}")

    assert len(desk.repeats._courses) == len(desk.repeats._unsaved) == 2


async def test_a_reservation_whose_answer_was_lost_does_not_block_its_own_process(
    desk: Desk, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = desk.line.exchange

    async def lose_the_answer(*arguments: object) -> None:
        await exchange(*arguments)  # type: ignore[arg-type]  # as it was called
        monkeypatch.undo()
        desk.line.is_cut = True
        await exchange(*arguments)  # type: ignore[arg-type]  # raises

    monkeypatch.setattr(desk.line, "exchange", lose_the_answer)
    with pytest.raises(StoreUnavailable):
        await desk.post("ann", key="k")
    desk.line.is_cut = False
    with pytest.raises(StillRunning):
        await Desk(store).post("ann", key="k")

    await desk.post("ann", key="k")


async def test_at_the_end_what_can_be_recorded_is(desk: Desk, store: MemoryStore) -> None:
    desk.line.cut_after = 2
    accepted = await desk.post("ann:1", key="k")
    desk.line.cut_after, desk.line.is_cut = None, False

    await desk.repeats.close()

    assert (await Desk(store).post("ann:1", key="k")).body == accepted.body
