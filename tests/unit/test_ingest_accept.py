from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ingest.accept import SLICE, Intake, fate_of
from ingest.refusals import NotConfirmed, RefusedByBroker, TooManyInFlight
from keylane.broker import Receipt
from keylane.errors import BrokerUnavailable, EventTooLarge, PublishUnconfirmed
from keylane.event import Event
from tests.fakes import FakePublisher, answers, position
from tests.waiting import until


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


def make_intake(publisher: FakePublisher, **overrides: Any) -> Intake:
    return Intake(publisher, **{"max_in_flight": 10, "send_deadline_s": 5.0, **overrides})


def make_events(count: int, payload: bytes = b"1") -> list[Event]:
    return [Event(id=f"e{n}", user=f"u{n}", payload=payload) for n in range(count)]


def fates(error: NotConfirmed) -> list[str]:
    return [event.status for event in error.events]


async def test_events_are_sent_in_order_and_waited_for(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher)
    accepting = asyncio.create_task(intake.accept(make_events(3)))
    await until(lambda: len(publisher.held) == 3)

    assert publisher.keys() == ["u0", "u1", "u2"]
    assert not accepting.done()
    assert intake.events_in_flight == 3

    publisher.release()
    await accepting

    assert (intake.events_in_flight, intake.bytes_in_flight) == (0, 0)


async def test_receipts_of_many_threads_are_all_counted(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher, max_in_flight=5_000)
    accepting = asyncio.create_task(intake.accept(make_events(2_000)))
    await until(lambda: len(publisher.held) == 2_000)
    parts = [publisher.held[n::8] for n in range(8)]

    await asyncio.gather(*(asyncio.to_thread(_give, part) for part in parts))
    await accepting

    assert intake.events_in_flight == 0


def _give(held: list[Callable[[Receipt], None]]) -> None:
    for done in held:
        done(position(0))


async def test_the_loop_is_woken_once_a_request(publisher: FakePublisher) -> None:
    loop = asyncio.get_running_loop()
    wakes: list[object] = []
    wake = loop.call_soon_threadsafe

    def counted(*args: Any, **options: Any) -> asyncio.Handle:
        wakes.append(args)
        return wake(*args, **options)

    loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]  # to count

    await make_intake(publisher, max_in_flight=100).accept(make_events(100))

    assert len(wakes) == 1


async def test_a_large_request_lets_others_have_their_turn(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher, max_in_flight=SLICE * 3)
    large = asyncio.create_task(intake.accept(make_events(SLICE * 2)))
    await asyncio.sleep(0)

    assert len(publisher.sent) == SLICE

    await until(lambda: len(publisher.sent) == SLICE * 2)
    publisher.release()
    await large


async def test_beyond_the_bound_nothing_is_sent(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher)
    first = asyncio.create_task(intake.accept(make_events(8)))
    await until(lambda: len(publisher.held) == 8)

    with pytest.raises(TooManyInFlight):
        await intake.accept(make_events(3))
    assert len(publisher.sent) == 8

    publisher.release()
    await first
    publisher.answer = position
    await intake.accept(make_events(3))


async def test_bytes_in_flight_are_bounded_too(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher, max_in_flight_bytes=100)
    first = asyncio.create_task(intake.accept(make_events(1, b"x" * 80)))
    await until(lambda: len(publisher.held) == 1)

    with pytest.raises(TooManyInFlight):
        await intake.accept(make_events(1, b"x" * 21))

    publisher.release()
    await first


async def test_what_is_over_the_bound_alone_passes_when_nothing_is_in_flight(
    publisher: FakePublisher,
) -> None:
    await make_intake(publisher).accept(make_events(11))

    assert len(publisher.sent) == 11


async def test_without_a_connection_nothing_is_sent(publisher: FakePublisher) -> None:
    publisher.connected = False

    with pytest.raises(BrokerUnavailable):
        await make_intake(publisher).accept(make_events(1))

    assert publisher.sent == []


async def test_after_the_deadline_it_is_said_what_was_confirmed(publisher: FakePublisher) -> None:
    publisher.answer = answers(position(0), None, position(2))

    with pytest.raises(NotConfirmed) as failed:
        await make_intake(publisher, send_deadline_s=0.05).accept(make_events(3))

    assert fates(failed.value) == ["confirmed", "unknown", "confirmed"]
    assert [(e.index, e.id, e.user) for e in failed.value.events][1] == (1, "e1", "u1")


async def test_an_unconfirmed_send_is_unknown(publisher: FakePublisher) -> None:
    publisher.hold()
    accepting = asyncio.create_task(make_intake(publisher).accept(make_events(2)))
    await until(lambda: len(publisher.held) == 2)
    publisher.release(PublishUnconfirmed())

    with pytest.raises(NotConfirmed) as failed:
        await accepting

    assert fates(failed.value) == ["unknown", "unknown"]


async def test_after_a_failure_nothing_more_is_sent(publisher: FakePublisher) -> None:
    publisher.answer = answers(position(0), PublishUnconfirmed())

    with pytest.raises(NotConfirmed) as failed:
        await make_intake(publisher).accept(make_events(4))

    assert fates(failed.value) == ["confirmed", "unknown", "not-sent", "not-sent"]
    assert publisher.keys() == ["u0", "u1"]


async def test_when_the_deadline_comes_first_nothing_more_is_sent(
    publisher: FakePublisher,
) -> None:
    publisher.hold()
    intake = make_intake(publisher, max_in_flight=SLICE * 4, send_deadline_s=0.000_001)

    with pytest.raises(NotConfirmed) as failed:
        await intake.accept(make_events(SLICE * 4))

    assert set(fates(failed.value)[:SLICE]) == {"unknown"}
    assert fates(failed.value)[-1] == "not-sent"
    assert len(publisher.sent) < SLICE * 4
    publisher.release()
    await until(lambda: intake.events_in_flight == 0)


async def test_an_event_that_the_broker_finds_too_large_is_named(publisher: FakePublisher) -> None:
    publisher.answer = answers(position(0), EventTooLarge())

    with pytest.raises(RefusedByBroker) as failed:
        await make_intake(publisher).accept(make_events(3))

    assert fates(failed.value) == ["confirmed", "too-large", "not-sent"]
    assert [error.index for error in failed.value.errors] == [1]


async def test_if_nothing_left_the_process_the_broker_is_unavailable(
    publisher: FakePublisher,
) -> None:
    publisher.answer = answers(BrokerUnavailable())

    with pytest.raises(BrokerUnavailable):
        await make_intake(publisher).accept(make_events(3))


async def test_a_place_is_held_until_the_receipt_not_until_the_deadline(
    publisher: FakePublisher,
) -> None:
    publisher.answer = answers(position(0), None)
    late: list[int] = []
    intake = make_intake(publisher, send_deadline_s=0.02)
    intake.on_late_receipts = late.append
    with pytest.raises(NotConfirmed):
        await intake.accept(make_events(2))

    assert intake.events_in_flight == 2

    publisher.release()
    await until(lambda: intake.events_in_flight == 0)
    assert late == [1]


async def test_a_receipt_that_never_comes_gives_its_place_back_in_the_end(
    publisher: FakePublisher,
) -> None:
    publisher.hold()
    intake = make_intake(publisher, send_deadline_s=0.02, forget_after_s=0.02)
    with pytest.raises(NotConfirmed):
        await intake.accept(make_events(2))

    await until(lambda: intake.events_in_flight == 0)
    publisher.release()
    await asyncio.sleep(0.01)

    assert intake.events_in_flight == 0


async def test_a_sender_who_leaves_does_not_free_the_place(publisher: FakePublisher) -> None:
    publisher.hold()
    intake = make_intake(publisher)
    accepting = asyncio.create_task(intake.accept(make_events(2)))
    await until(lambda: len(publisher.held) == 2)
    accepting.cancel()
    await asyncio.wait([accepting])

    assert intake.events_in_flight == 2

    publisher.release()
    await until(lambda: intake.events_in_flight == 0)


async def test_being_cancelled_while_sending_counts_what_was_not_sent(
    publisher: FakePublisher,
) -> None:
    intake = make_intake(publisher, max_in_flight=SLICE * 2)
    accepting = asyncio.create_task(intake.accept(make_events(SLICE * 2)))
    await asyncio.sleep(0)
    accepting.cancel()
    await asyncio.wait([accepting])

    await until(lambda: intake.events_in_flight == 0)
    assert len(publisher.sent) == SLICE


async def test_receipts_are_told_before_the_request_is_accepted(publisher: FakePublisher) -> None:
    told: list[Sequence[Receipt | None]] = []

    await make_intake(publisher).accept(make_events(2), told.append)

    assert told == [(position(0), position(1))]


async def test_receipts_are_told_when_none_is_under_way_any_more(publisher: FakePublisher) -> None:
    publisher.answer = answers(position(0), None)
    told: list[Sequence[Receipt | None]] = []
    with pytest.raises(NotConfirmed):
        await make_intake(publisher, send_deadline_s=0.02).accept(make_events(2), told.append)
    assert told == []

    publisher.release()

    await until(lambda: told == [(position(0), position(0))])


async def test_what_was_not_sent_is_told_too(publisher: FakePublisher) -> None:
    publisher.answer = answers(PublishUnconfirmed())
    told: list[Sequence[Receipt | None]] = []

    with pytest.raises(NotConfirmed):
        await make_intake(publisher).accept(make_events(2), told.append)

    assert [fate_of(receipt) for receipt in told[0]] == ["unknown", "not-sent"]


async def test_receipts_of_a_sender_who_left_are_told(publisher: FakePublisher) -> None:
    publisher.hold()
    told: list[Sequence[Receipt | None]] = []
    accepting = asyncio.create_task(make_intake(publisher).accept(make_events(1), told.append))
    await until(lambda: len(publisher.held) == 1)
    accepting.cancel()
    await asyncio.wait([accepting])
    publisher.release()

    await until(lambda: told == [(position(0),)])


async def test_receipts_that_never_come_are_told_once(publisher: FakePublisher) -> None:
    publisher.hold()
    told: list[Sequence[Receipt | None]] = []
    intake = make_intake(publisher, send_deadline_s=0.02, forget_after_s=0.02)
    with pytest.raises(NotConfirmed):
        await intake.accept(make_events(1), told.append)
    await until(lambda: told == [(None,)])

    publisher.release()
    await asyncio.sleep(0.01)

    assert told == [(None,)]


async def test_if_nothing_was_tried_nothing_is_told(publisher: FakePublisher) -> None:
    publisher.connected = False
    told: list[Sequence[Receipt | None]] = []

    with pytest.raises(BrokerUnavailable):
        await make_intake(publisher).accept(make_events(1), told.append)

    assert told == []


def test_a_receipt_after_the_end_of_the_loop_is_ignored(publisher: FakePublisher) -> None:
    publisher.hold()

    async def leave() -> None:
        with pytest.raises(NotConfirmed):
            await make_intake(publisher, send_deadline_s=0.01).accept(make_events(1))

    asyncio.run(leave())

    publisher.held[0](position(0))
