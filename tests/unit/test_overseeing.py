"""Pausing, looking at lanes and deciding on them, with real workers on the in-memory broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from dispatch.delivery import Delivery
from dispatch.outcome import Disabled, Outcome, Unavailable
from keylane.broker import OutgoingMessage
from keylane.controlrecord import About, Key, Order, Pause, Standing, UserRecord, What, now
from keylane.errors import BrokerUnavailable, ConfigurationError
from keylane.names import redrive_topic
from keylane.questions import Kind
from operate import controlsession
from operate.controlsession import ControlSession, Heard, Said
from operate.overseeing import overseer as overseeing
from operate.overseeing.lanes import lanes_at
from operate.overseeing.orders import at_work, lanes_of_user, order
from operate.overseeing.overseer import Overseer
from operate.overseeing.pausing import pause, pause_in, resume
from operate.overseeing.standing import Condition
from operate.overseeing.status import standings
from operate.overseeing.watching import as_dict
from tests.jsonforms import assert_is
from tests.unit.overseeing_desk import MemoryAdmin, overseen
from tests.unit.worker_site import DEAD, Scripted, Site, delivered
from tests.waiting import until

PAUSE = Key("crm", About.PAUSE)


@pytest.fixture
def admin(site: Site) -> MemoryAdmin:
    return MemoryAdmin(site.cluster)


@pytest.fixture
async def crm(site: Site, admin: MemoryAdmin) -> AsyncIterator[Overseer]:
    async with overseen(site, admin) as overseer:
        yield overseer


def fails(user: str, status: int = 500) -> Scripted:
    """A destination that fails one user's events."""

    def answer(delivery: Delivery) -> Outcome:
        is_bad = delivery.event.user == user
        if is_bad:
            return Unavailable(f"answered {status}", status, retry_after_s=60)
        return delivered(delivery)

    return Scripted(answer)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Overseer.heard

    async def soon(
        self: Overseer, destination: str, said: Iterable[Said], _within_s: float = 0
    ) -> Heard:
        return await heard(self, destination, said, 0.3)

    monkeypatch.setattr(Overseer, "heard", soon)


# pause and resume


async def test_after_a_pause_is_confirmed_no_attempt_starts_until_it_is_resumed(
    site: Site, crm: Overseer
) -> None:
    destination = Scripted(delivered)
    await site.start(destination)

    paused = await pause(crm, "crm")

    assert (paused.heard.confirmed, paused.heard.unconfirmed) == (["worker-1"], [])
    assert not paused.was_paused
    assert_is("pause", paused.as_dict())
    await site.publish("Ada", "1", "2")
    await until(lambda: site.worker.metrics.counts.received == 2)
    await asyncio.sleep(0.05)
    assert destination.attempts == []

    resumed = await resume(crm, "crm")

    assert (resumed.was_paused, resumed.was_disabled) == (True, False)
    assert resumed.heard.confirmed == ["worker-1"]
    assert_is("resume", resumed.as_dict())
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1", "Ada:2:1"]


async def test_a_pause_with_nothing_running_waits_for_those_who_start(
    site: Site, crm: Overseer
) -> None:
    assert (await pause(crm, "crm")).heard.confirmed == []
    await site.start(Scripted(delivered), is_ready=False)

    await until(lambda: "paused" in site.worker.unready_reasons())


async def test_a_second_pause_keeps_the_time_of_the_first(site: Site, crm: Overseer) -> None:
    first = await pause(crm, "crm")
    second = await pause(crm, "crm")

    assert second.was_paused
    assert second.at == first.at
    assert second.token != first.token


async def test_a_pause_of_live_events_becomes_one_of_all(site: Site, crm: Overseer) -> None:
    await crm.control.put(PAUSE, Pause("t", "2026-01-31T12:00:00.000Z", live_only=True).encoded())

    paused = await pause(crm, "crm")

    assert not paused.was_paused
    assert paused.at > "2026-01-31T12:00:00.000Z"
    found = pause_in(crm.control, "crm")
    assert found is not None
    assert not found.live_only


async def test_who_does_not_confirm_is_named_and_the_pause_stays_said(
    site: Site, crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.start(Scripted(delivered))
    admin.extra["crm"] = ["stuck"]
    be_impatient(monkeypatch)

    paused = await pause(crm, "crm")

    assert (paused.heard.confirmed, paused.heard.unconfirmed) == (["worker-1"], ["stuck"])
    assert str(PAUSE) in crm.control.kept


async def test_who_leaves_meanwhile_is_not_waited_for(
    site: Site, crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlsession, "LOOK_AGAIN_S", 0.2)
    await site.start(Scripted(delivered))
    admin.extra["crm"] = ["leaving"]

    async def leave() -> None:
        await asyncio.sleep(0.1)
        admin.extra.clear()

    leaving = asyncio.create_task(leave())
    began = time.monotonic()
    heard = await crm.heard("crm", [(PAUSE, "")])
    await leaving

    assert time.monotonic() - began < 5

    assert (heard.confirmed, heard.unconfirmed) == (["worker-1"], [])


async def test_who_joins_meanwhile_is_waited_for_as_well(
    site: Site, crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.start(Scripted(delivered))
    looks = [{"worker-1"}, {"worker-1", "late"}, {"worker-1", "late"}]

    async def running(_self: ControlSession, _name: str) -> set[str]:
        return looks.pop(0)

    monkeypatch.setattr(ControlSession, "running", running)

    heard = await crm.heard("crm", [(PAUSE, "")], timeout_s=0.3)

    assert (heard.confirmed, heard.unconfirmed) == (["worker-1"], ["late"])
    assert looks == []


async def test_a_destination_that_disabled_itself_is_resumed_too(site: Site, crm: Overseer) -> None:
    destination = Scripted(lambda _: Disabled("answered 410", 410))
    await site.start(destination)
    await site.publish("Ada", "1")
    await until(lambda: "crm" in crm.control.kept)
    (standing,) = await standings(crm)
    assert standing.condition is Condition.DISABLED
    assert standing.disabled is not None
    assert standing.disabled["because"] == "answered 410"
    destination.answer = delivered

    resumed = await resume(crm, "crm")

    assert resumed.was_disabled
    assert resumed.heard.confirmed == ["worker-1"]
    await site.everything_is_done()


async def test_a_resume_of_what_goes_on_changes_nothing(site: Site, crm: Overseer) -> None:
    await site.start(Scripted(delivered))

    resumed = await resume(crm, "crm")

    assert (resumed.was_paused, resumed.was_disabled) == (False, False)
    assert resumed.heard.confirmed == ["worker-1"]


@pytest.mark.parametrize("work", [pause, resume])
async def test_a_destination_without_subscription_is_refused_with_the_names_there_are(
    site: Site, crm: Overseer, work: object
) -> None:
    site.cluster.create_subscription("events", "audit")

    with pytest.raises(ConfigurationError) as told:
        await work(crm, "crn")  # type: ignore[operator]

    assert "Destinations there: audit, crm. Did you mean crm?" in str(told.value)
    assert crm.control.kept == {}


async def test_a_topic_that_is_not_there_is_told(site: Site, crm: Overseer) -> None:
    crm.topic = "nothing"

    with pytest.raises(ConfigurationError, match="There is no topic"):
        await pause(crm, "crm")


# status


async def test_status_puts_together_what_the_broker_counts_and_what_workers_say(
    site: Site, crm: Overseer
) -> None:
    site.cluster.create_subscription("events", "audit")
    site.cluster.create_subscription(DEAD, "keylane")
    await site.start(fails("Ada"), backoff_max_s=60)
    await site.publish("Ada", "1", "2")
    await site.publish("Bob", "3")
    await until(lambda: site.cluster.backlog("events", "crm") == 2)
    for user, standing in {"Cid": Standing.HELD, "Dan": Standing.WAITING}.items():
        record = UserRecord(standing.value, now())
        await crm.control.put(Key("crm", About.USER, user), record.encoded())
    await crm.control.put(Key("crm", About.USER, "Eve"), b"nonsense")

    found = await standings(crm)

    told = assert_is("status", as_dict(crm.topic, found))
    audit, own = told["destinations"]
    assert (audit["name"], audit["condition"], audit["backlog"]) == ("audit", "unattended", 3)
    assert audit["dead_letters"] is None
    assert audit["workers"] == []
    assert (own["condition"], own["backlog"], own["dead_letters"]) == ("delivering", 2, 0)
    assert own["users"] == {"held": 1, "waiting": 1}
    assert (own["lanes"], own["held"], own["breaker"]) == (1, 1, "closed")
    (worker,) = own["workers"]
    assert (worker["name"], worker["answers"], worker["unacknowledged"]) == ("worker-1", True, 2)
    assert worker["share"] == 1.0
    assert [p["partition"] for p in worker["partitions"] if p["partition"] >= 0] == [0, 1]
    assert worker["partitions"][0]["hash_ranges"] == [[0, 65535]]
    assert worker["report"]["lanes"] == 1


async def test_status_marks_workers_that_the_broker_lists_and_that_do_not_answer(
    site: Site, crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overseeing, "ANSWER_WITHIN_S", 0.2)
    await site.start(Scripted(delivered))
    admin.extra["crm"] = ["stuck"]

    (standing,) = await standings(crm, ["crm"])

    assert standing.silent == ["stuck"]
    assert standing.condition is Condition.DELIVERING
    told = standing.as_dict()
    assert [(w["name"], w["answers"], w["share"]) for w in told["workers"]] == [
        ("stuck", False, 0.5),
        ("worker-1", True, 0.5),
    ]


async def test_status_shows_a_pause_and_who_is_paused_by_a_replay(
    site: Site, crm: Overseer
) -> None:
    await site.start(Scripted(delivered))
    paused = await pause(crm, "crm")
    (standing,) = await standings(crm)
    assert standing.condition is Condition.PAUSED
    assert standing.paused == {"at": paused.at, "live_only": False}

    await crm.control.put(PAUSE, Pause("t", now(), live_only=True).encoded())

    (standing,) = await standings(crm)
    assert standing.condition is Condition.LIVE_PAUSED


async def test_status_of_a_name_without_subscription_is_refused(crm: Overseer) -> None:
    with pytest.raises(ConfigurationError, match="no subscription 'audit'"):
        await standings(crm, ["crm", "audit"])


# lanes and orders


async def test_stuck_users_are_listed_with_their_last_error(site: Site, crm: Overseer) -> None:
    await site.start(fails("Ada", 503), backoff_max_s=60)
    await site.publish("Ada", "1", "2")
    await until(lambda: site.worker.metrics.counts.attempts["unavailable"] == 1)

    found = await lanes_at(crm, "crm", top=20)

    told = assert_is("lanes", found.as_dict())
    (lane,) = told["lanes"]
    assert (lane["user"], lane["id"], lane["state"], lane["events"]) == ("Ada", "1", "backoff", 2)
    assert (lane["last_status"], lane["last_error"], lane["worker"]) == (
        503,
        "answered 503",
        "worker-1",
    )


async def test_a_skipped_event_is_dropped_and_the_next_one_follows(
    site: Site, crm: Overseer
) -> None:
    destination = fails("Ada")
    await stuck(site, destination)
    (lane,) = (await lanes_of_user(crm, "crm", "Ada")).lanes
    destination.answer = delivered

    done = await order(crm, "crm", lane, What.SKIP)

    assert done.is_applied
    assert_is("lane", done.as_dict())
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1", "Ada:2:1"]
    assert site.dead() == []


async def test_an_event_given_up_by_hand_is_dead_lettered(site: Site, crm: Overseer) -> None:
    destination = fails("Ada")
    await stuck(site, destination)
    (lane,) = (await lanes_of_user(crm, "crm", "Ada")).lanes
    destination.answer = delivered

    done = await order(crm, "crm", lane, What.DEAD_LETTER)

    assert done.is_applied
    await site.everything_is_done()
    assert [message.properties()["ce_id"] for message in site.dead()] == ["1"]


async def test_a_retry_now_ends_the_backoff(site: Site, crm: Overseer) -> None:
    destination = fails("Ada")
    await stuck(site, destination)
    (lane,) = (await lanes_of_user(crm, "crm", "Ada")).lanes
    destination.answer = delivered

    done = await order(crm, "crm", lane, What.RETRY_NOW)

    assert done.is_applied
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1", "Ada:1:2", "Ada:2:1"]


async def test_an_order_for_an_event_that_is_done_with_is_void(site: Site, crm: Overseer) -> None:
    destination = fails("Ada")
    await stuck(site, destination)
    (lane,) = (await lanes_of_user(crm, "crm", "Ada")).lanes
    destination.answer = delivered
    await order(crm, "crm", lane, What.SKIP)
    await site.everything_is_done()

    assert (await order(crm, "crm", lane, What.DEAD_LETTER)).is_applied
    assert site.dead() == []
    assert crm.control.of("crm", About.ORDER) == {}


async def test_an_order_that_nobody_can_carry_out_yet_stays_said(
    site: Site, crm: Overseer, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = Scripted(delivered)
    destination.hold.clear()
    await site.start(destination)
    await site.publish("Ada", "1")
    await until(lambda: destination.attempts == ["Ada:1:1"])
    (lane,) = (await lanes_of_user(crm, "crm", "Ada")).lanes
    be_impatient(monkeypatch)

    done = await order(crm, "crm", lane, What.SKIP)

    assert lane["state"] == "in_flight"
    assert not done.is_applied
    kept = crm.control.of("crm", About.ORDER)["Ada"]
    assert Order.decoded(kept).position == lane["place"]
    destination.hold.set()
    await until(lambda: crm.control.of("crm", About.ORDER) == {})


async def test_without_a_worker_no_order_is_given(crm: Overseer) -> None:
    with pytest.raises(BrokerUnavailable, match="keylane dispatch crm"):
        await lanes_of_user(crm, "crm", "Ada")


async def test_workers_that_do_not_answer_are_named(
    crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overseeing, "ANSWER_WITHIN_S", 0.1)
    admin.extra["crm"] = ["stuck"]

    assert (await lanes_at(crm, "crm", top=20)).unanswered == ["stuck"]
    with pytest.raises(BrokerUnavailable, match="answers \\(stuck\\)"):
        await lanes_of_user(crm, "crm", "Ada")


async def stuck(site: Site, destination: Scripted) -> None:
    """Two events of Ada, the first of which has failed and waits for long."""
    await site.start(destination, backoff_max_s=60)
    await site.publish("Ada", "1", "2")
    await until(lambda: site.worker.metrics.counts.attempts["unavailable"] == 1)


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ([("waiting", 0), ("backoff", -1)], -1),
        ([("in_flight", 0), ("backoff", -1)], 0),
        ([("ready", 0), ("ready", -1)], -1),
        ([("awaited", 2), ("of a later version", 1)], 2),
    ],
)
def test_of_several_lanes_of_a_user_the_one_at_work_is_decided_on(
    states: list[tuple[str, int]], chosen: int
) -> None:
    lanes = [{"state": state, "partition": partition} for state, partition in states]

    assert at_work(lanes)["partition"] == chosen


# answers of several workers


def let_answer(
    monkeypatch: pytest.MonkeyPatch, crm: Overseer, answer: Callable[[dict[str, Any]], list[Any]]
) -> None:
    """What is asked is answered at once; `answer` is told the question's details."""

    async def ask(
        kind: Kind, destination: str | None, expected: object, timeout_s: float, **details: Any
    ) -> list[Any]:
        await asyncio.sleep(0)
        return answer(details)

    monkeypatch.setattr(crm.control.asker, "ask", ask)


async def test_who_goes_by_one_record_only_has_not_confirmed(
    crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.extra["crm"] = ["both", "half"]

    def answer(details: dict[str, Any]) -> list[Any]:
        return [{"worker": "both"}] + ([{"worker": "half"}] if details["key"] == "crm" else [])

    let_answer(monkeypatch, crm, answer)

    heard = await crm.heard("crm", [(PAUSE, ""), (Key("crm", About.DESTINATION), "")], 0.05)

    assert (heard.confirmed, heard.unconfirmed) == (["both"], ["half"])


async def test_lanes_of_several_workers_are_one_list_and_nonsense_is_none(
    crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.extra["crm"] = ["a", "b"]
    row = dict.fromkeys(("partition", "state", "id", "position", "place", "last_status"), 0)
    row |= dict.fromkeys(("next_attempt_in_s", "last_error", "events"), 1)

    def lane(user: str, attempt: int, head_s: float) -> dict[str, Any]:
        return {**row, "user": user, "attempt": attempt, "head_s": head_s}

    told = [
        {"worker": "a", "lanes": [lane("Ada", 2, 1.0), lane("Bob", 1, 9.0)]},
        {"worker": "b", "lanes": [lane("Cid", 3, 2.0), {"user": "Dan"}, 7]},
    ]
    let_answer(monkeypatch, crm, lambda _: told)

    found = await lanes_at(crm, "crm", top=2)

    assert [(one["user"], one["worker"]) for one in found.lanes] == [("Cid", "b"), ("Ada", "a")]


async def test_an_answer_that_is_no_report_is_none(
    crm: Overseer, admin: MemoryAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.extra["crm"] = ["a"]
    let_answer(monkeypatch, crm, lambda _: [{"worker": "a", "destination": "crm", "ready": 1}])

    (standing,) = await standings(crm)

    assert standing.condition is Condition.SILENT


async def test_what_is_to_be_delivered_once_more_is_counted(site: Site, crm: Overseer) -> None:
    again = redrive_topic("events", "crm")
    site.cluster.create_subscription(again, "crm")
    publisher = await site.broker.publisher(again)
    for user in ("Ada", "Bob"):
        publisher.send(OutgoingMessage(user, b"{}"), lambda _: None)

    (standing,) = await standings(crm)

    assert (standing.backlog.redrive, standing.backlog.live) == (2, 0)
