"""The shell around the lanes, on the in-memory broker: what it tells broker and operator."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from dispatch.delivery import Delivery
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable, Withdrawn
from keylane.errors import BrokerUnavailable, ContractError
from keylane.memory import MemoryBroker, MemoryConsumer
from keylane.names import handover_channel
from tests.unit.worker_site import DEAD, Immediate, Scripted, Site, delivered
from tests.waiting import until


@pytest.mark.parametrize("kind", [Scripted, Immediate])
async def test_delivered_events_are_acknowledged(site: Site, kind: type[Scripted]) -> None:
    destination = kind(delivered)
    await site.start(destination)
    await site.publish("Ada", "1", "2", "3")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1", "Ada:2:1", "Ada:3:1"]


@pytest.mark.parametrize("kind", [Scripted, Immediate])
async def test_an_event_given_up_is_dead_lettered_before_the_next_is_attempted(
    site: Site, kind: type[Scripted]
) -> None:
    def answer(delivery: Delivery) -> Outcome:
        if delivery.event.id == "1":
            return Unavailable("answered 503: later", 503)
        assert [m.properties()["ce_id"] for m in site.dead()] == ["1"]
        return Delivered(200)

    destination = kind(answer)
    await site.start(destination)
    await site.publish("Ada", "1", "2")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1", "Ada:1:2", "Ada:2:1"]
    (dead,) = site.dead()
    properties = dead.properties()
    assert dead.key == "Ada"
    assert properties["REAL_SUBSCRIPTION"] == "crm"
    assert properties["REAL_TOPIC"].startswith("persistent://public/default/events-partition-")
    assert properties["keylane-reason"] == "max-attempts"
    assert properties["keylane-attempts"] == "2"
    assert properties["keylane-last-status"] == "503"
    assert properties["keylane-last-error"] == "answered 503: later"
    assert properties["keylane-first-attempt-at"] < properties["keylane-last-attempt-at"]
    assert properties["ORIGIN_MESSAGE_ID"].count(":") == 2


async def test_a_refused_event_is_dead_lettered_at_once(site: Site) -> None:
    destination = Scripted(lambda _: Refused("answered 400", 400))
    await site.start(destination)
    await site.publish("Ada", "1")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1"]
    assert site.dead()[0].properties()["keylane-reason"] == "rejected"


async def test_an_event_that_the_destination_can_not_express_is_dead_lettered(site: Site) -> None:
    def answer(_: Delivery) -> Outcome:
        raise ContractError("no such header")

    await site.start(Scripted(answer))
    await site.publish("Ada", "1")
    await site.everything_is_done()
    assert site.dead()[0].properties()["keylane-reason"] == "malformed"


async def test_nothing_is_acknowledged_while_the_dead_letter_topic_does_not_confirm(
    site: Site,
) -> None:
    site.cluster.refuse_publishes(DEAD, BrokerUnavailable("quota"))
    destination = Scripted(
        lambda d: Refused("no", 400) if d.event.user == "Ada" else Delivered(200)
    )
    await site.start(destination)
    await site.publish("Ada", "1", "2")
    await site.publish("Bob", "3", "4")
    await until(lambda: site.worker.metrics.counts.dead_letters_unconfirmed >= 2)
    assert site.cluster.backlog("events", "crm") == 2
    assert [a for a in destination.attempts if a.startswith("Ada")] == ["Ada:1:1"]

    site.cluster.refuse_publishes(DEAD, None)
    await site.everything_is_done()
    assert [m.properties()["ce_id"] for m in site.dead()] == ["1", "2"]


@pytest.mark.parametrize("kind", [Scripted, Immediate])
async def test_a_destination_that_breaks_strands_nobody(site: Site, kind: type[Scripted]) -> None:
    def answer(delivery: Delivery) -> Outcome:
        if delivery.attempt == 1:
            raise RuntimeError("a bug")
        return Delivered(200)

    await site.start(kind(answer))
    with capture_logs() as logs:
        await site.publish("Ada", "1")
        await site.everything_is_done()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["attempt.broke"]


async def test_a_stopping_worker_lets_attempts_finish_and_starts_none(site: Site) -> None:
    destination = Scripted(delivered)
    destination.hold.clear()
    await site.start(destination)
    await site.publish("Ada", "1", "2")
    await until(lambda: destination.attempts == ["Ada:1:1"])
    site.stop.set()
    await until(lambda: site.worker.unready_reasons() == ["draining"])
    destination.hold.set()
    await site.running
    assert destination.attempts == ["Ada:1:1"]
    assert destination.is_closed
    assert site.cluster.backlog("events", "crm") == 1


async def test_an_attempt_that_does_not_end_in_time_is_given_back(site: Site) -> None:
    destination = Scripted(delivered)
    destination.hold.clear()
    await site.start(destination)
    await site.publish("Ada", "1")
    await until(lambda: destination.attempts == ["Ada:1:1"])
    await site.end()
    assert site.cluster.backlog("events", "crm") == 1


async def test_a_worker_without_its_connection_is_not_ready_and_says_why(site: Site) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    site.cluster.stop()
    await until(
        lambda: (
            site.worker.unready_reasons()
            == ["not connected to partitions [0, 1] and the redrive topic"]
        )
    )
    site.cluster.start()
    await until(lambda: not site.worker.unready_reasons())
    await site.publish("Ada", "1")
    await site.everything_is_done()


async def test_nothing_starts_while_the_broker_does_not_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = Scripted(delivered)
    await site.start(destination, lease_s=0.2)
    answers = asyncio.Event()
    confirm = MemoryConsumer.confirm

    async def ask(consumer: MemoryConsumer) -> None:
        if not answers.is_set():
            raise BrokerUnavailable
        await confirm(consumer)

    monkeypatch.setattr(MemoryConsumer, "confirm", ask)
    with capture_logs() as lines:
        await until(lambda: len(site.worker.unready_reasons()) == 1)
        await site.publish("Ada", "1")
        await until(lambda: site.worker.metrics.counts.received == 1)
        assert destination.attempts == []
        assert "has not answered lately" in site.worker.unready_reasons()[0]
        answers.set()
        await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1"]
    await until(lambda: not site.worker.unready_reasons())
    told = [line["event"] for line in lines if line["event"].startswith("connection.")]
    assert {"connection.unsure", "connection.sure"} <= set(told)


async def test_a_note_that_can_not_be_read_harms_nobody(site: Site) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    channel = await site.broker.channel(handover_channel("events", "crm"), lambda _: None)
    with capture_logs() as lines:
        for nonsense in (b"", b"{", b"7", b"[[1]]", b'[[0, "x", 1, 1]]', b"[[0, [1, 2], 1, 1]]"):
            channel.say(nonsense)
        await site.publish("Ada", "1")
        await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1"]
    assert len([line for line in lines if line["event"] == "handover.unreadable"]) == 6


async def test_without_a_channel_everything_is_delivered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(broker: MemoryBroker, name: str, hear: object) -> None:
        raise BrokerUnavailable

    monkeypatch.setattr(MemoryBroker, "channel", refuse)
    destination = Scripted(delivered)
    with capture_logs() as lines:
        await site.start(destination)
        await site.publish("Ada", "1")
        await site.everything_is_done()
    assert "handover.unavailable" in [line["event"] for line in lines]


async def test_a_worker_whose_step_breaks_ends_instead_of_standing_still(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.start(Scripted(delivered))

    def broken(_: float) -> None:
        raise RuntimeError("a bug in the lanes")

    monkeypatch.setattr(site.worker._lanes, "advance", broken)
    with pytest.raises(RuntimeError, match="a bug in the lanes"):
        await site.running


async def test_every_line_about_an_event_names_it(site: Site) -> None:
    await site.start(Scripted(lambda d: Delivered() if d.attempt > 1 else Unavailable("no", 503)))
    with capture_logs() as logs:
        await site.publish("Ada", "1")
        await site.everything_is_done()
    (failed,) = [line for line in logs if line["event"] == "attempt.failed"]
    facts = {"id": "1", "user": "Ada", "destination": "crm", "attempt": 1, "status": 503}
    assert facts.items() <= failed.items()


async def test_metrics_tell_what_became_of_the_events(site: Site) -> None:
    await site.start(Scripted(lambda d: Refused("no") if d.event.id == "1" else Delivered()))
    await site.publish("Ada", "1", "2")
    await site.everything_is_done()
    await until(lambda: site.worker.metrics.counts.acknowledged == 2)
    text = generate_latest(site.worker.metrics.registry).decode()
    for line in (
        'keylane_received_total{destination="crm"} 2.0',
        'keylane_acknowledged_total{destination="crm"} 2.0',
        'keylane_attempts_total{destination="crm",outcome="delivered"} 1.0',
        'keylane_attempts_total{destination="crm",outcome="refused"} 1.0',
        'keylane_dead_letters_total{destination="crm",reason="rejected"} 1.0',
        'keylane_late_arrivals_total{destination="crm"} 0.0',
        'keylane_events{destination="crm",state="held"} 0.0',
        'keylane_receiving{destination="crm"} 1.0',
    ):
        assert line in text.splitlines()


async def test_an_attempt_that_was_withdrawn_is_made_again_and_counts_for_nothing(
    site: Site,
) -> None:
    may_begin: list[bool] = []

    def answer(delivery: Delivery) -> Outcome:
        if not may_begin:
            may_begin.append(delivery.may_begin())
            time.sleep(1.1)  # the process stands still for longer than its steps are apart
        may_begin.append(delivery.may_begin())
        return Delivered(200) if may_begin[-1] else Withdrawn()

    destination = Scripted(answer)
    await site.start(destination)
    await site.publish("Ada", "1", "2")
    await site.everything_is_done()

    assert may_begin == [True, False, True, True]
    assert destination.attempts == ["Ada:1:1", "Ada:1:1", "Ada:2:1"]
    assert site.worker.metrics.counts.attempts["delivered"] == 2
