"""Users that are held or wait, orders and pauses: a worker that hears of them, and says them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatch.delivery import Delivery
from dispatch.holding import Holding
from dispatch.options import LaneOptions
from dispatch.outcome import Delivered, Outcome, Refused, Unavailable
from keylane.broker import OutgoingMessage, Table
from keylane.controlrecord import NOTHING, About, Key, Order, Pause, Standing, UserRecord, What
from keylane.errors import PublishUnconfirmed
from keylane.memory import MemoryBroker
from keylane.names import WHOLE, control_topic, redrive_topic
from keylane.questions import Asker, Kind
from keylane.redriven import REDRIVE, end_of, redriven
from keylane.routing import partition_of
from tests.unit.worker_site import DEAD, Immediate, Scripted, Site, delivered
from tests.waiting import until

AT = "2026-01-01T00:00:00.000Z"
HOLDING = LaneOptions(fresh_s=0, lease_s=20, holding=Holding(dead_letter=True))


class Desk:
    """Somebody who says things to the workers of a site, from a session of his own."""

    def __init__(self, site: Site) -> None:
        self._broker = MemoryBroker(site.cluster)
        self.kept: dict[str, bytes] = {}
        self.asker = Asker()
        self._table: Table

    async def open(self) -> None:
        self._table = await self._broker.table(control_topic("events"), self._hear)
        await self.asker.open(self._broker, "events")

    def _hear(self, key: str, value: bytes) -> None:
        self.kept[key] = value

    async def say(self, about: About, value: bytes, of: str = "") -> None:
        await self._table.put(str(Key("crm", about, of)), value)

    def user(self, user: str) -> UserRecord | None:
        value = self.kept.get(str(Key("crm", About.USER, user)))
        return UserRecord.decoded(value) if value else None

    async def make_wait(self, user: str, token: str) -> None:
        record = UserRecord(Standing.WAITING, AT, token=token)
        await self.say(About.USER, record.encoded(), user)
        assert await self.applied(token)

    async def applied(self, token: str, timeout_s: float = 5.0, key: str = "") -> bool:
        expected = {("crm", "worker-1")}
        details = {"token": token, "key": key}
        return bool(await self.asker.ask(Kind.APPLIED, "crm", expected, timeout_s, **details))

    async def send_again(self, *messages: OutgoingMessage) -> None:
        publisher = await self._broker.publisher(redrive_topic("events", "crm"))
        for message in messages:
            publisher.send(message, lambda _: None)

    async def close(self) -> None:
        await self._broker.close()


@pytest.fixture
async def desk(site: Site) -> AsyncIterator[Desk]:
    desk = Desk(site)
    await desk.open()
    yield desk
    await desk.close()


def reasons(site: Site) -> list[tuple[str, str]]:
    return [(d.properties()["ce_id"], d.properties()["keylane-reason"]) for d in site.dead()]


def refuses(*ids: str) -> Any:
    def answer(delivery: Delivery) -> Outcome:
        return Refused("no", 400) if delivery.event.id in ids else Delivered(200)

    return answer


def again(user: str, event_id: str, token: str) -> OutgoingMessage:
    return redriven(user, b"{}", {"ce_id": event_id}, 0, token)


@pytest.mark.parametrize("kind", [Scripted, Immediate])
async def test_what_comes_after_a_dead_letter_follows_it_untried(
    site: Site, desk: Desk, kind: type[Scripted]
) -> None:
    destination = kind(refuses("2"))
    await site.start(destination, options=HOLDING)
    await site.publish("Ada", "1", "2", "3", "4")
    await site.publish("Bob", "1")
    await site.everything_is_done()

    assert reasons(site) == [("2", "rejected"), ("3", "held"), ("4", "held")]
    assert [a for a in destination.attempts if a.startswith("Ada")] == ["Ada:1:1", "Ada:2:1"]
    assert "Bob:1:1" in destination.attempts
    held = desk.user("Ada")
    assert held is not None
    assert (held.standing, held.reason) == ("held", "rejected")
    untried = site.dead()[1].properties()
    assert untried["keylane-attempts"] == "0"
    assert untried["keylane-first-attempt-at"] == untried["keylane-last-attempt-at"] == ""


async def test_without_hold_the_next_event_is_tried(site: Site, desk: Desk) -> None:
    await site.start(Scripted(refuses("2")))
    await site.publish("Ada", "1", "2", "3")
    await site.everything_is_done()
    assert reasons(site) == [("2", "rejected")]
    assert desk.user("Ada") is None


async def test_a_worker_that_starts_later_holds_the_user_too(site: Site, desk: Desk) -> None:
    held = UserRecord(Standing.HELD, AT)
    await desk.say(About.USER, held.encoded(), "Ada")
    destination = Scripted(delivered)
    await site.start(destination, options=HOLDING)
    await site.publish("Ada", "1")
    await site.publish("Bob", "1")
    await site.everything_is_done()
    assert reasons(site) == [("1", "held")]
    assert destination.attempts == ["Bob:1:1"]


async def test_the_event_that_a_dead_worker_held_its_user_for_keeps_its_reason(
    site: Site, desk: Desk
) -> None:
    await site.publish("Ada", "1", "2")
    ledger, entry, _ = site.cluster.messages("events")[0].position
    record = UserRecord(
        Standing.HELD,
        AT,
        position=f"{partition_of('Ada', 2)}:{ledger}:{entry}",
        reason="max-attempts",
        status=500,
        error="broken",
    )
    await desk.say(About.USER, record.encoded(), "Ada")
    await site.start(Scripted(delivered), options=HOLDING)
    await site.everything_is_done()
    assert reasons(site) == [("1", "max-attempts"), ("2", "held")]
    assert site.dead()[0].properties()["keylane-last-error"] == "broken"


async def test_a_user_is_held_before_the_dead_letter_is_there(site: Site, desk: Desk) -> None:
    site.cluster.refuse_publishes(DEAD, PublishUnconfirmed())
    await site.start(Scripted(refuses("1")), options=HOLDING)
    await site.publish("Ada", "1", "2")
    await until(lambda: desk.user("Ada") is not None)
    site.cluster.refuse_publishes(DEAD, None)
    await site.everything_is_done()
    assert reasons(site) == [("1", "rejected"), ("2", "held")]


async def test_live_events_wait_while_earlier_ones_are_delivered_once_more(
    site: Site, desk: Desk
) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    await desk.make_wait("Ada", "run")
    await site.publish("Ada", "7", "8")
    await site.publish("Bob", "1")
    await until(lambda: "Bob:1:1" in destination.attempts)
    assert destination.attempts == ["Bob:1:1"]

    await desk.send_again(again("Ada", "5", "run"), again("Ada", "6", "run"), end_of("run", "Ada"))
    await site.everything_is_done()
    ada = [a for a in destination.attempts if a.startswith("Ada")]
    assert ada == ["Ada:5:1", "Ada:6:1", "Ada:7:1", "Ada:8:1"]
    await until(lambda: desk.user("Ada") is None)
    assert site.cluster.backlog("events-crm-redrive", "crm") == 0


async def test_a_wait_is_confirmed_only_when_nothing_of_the_user_is_under_way(
    site: Site, desk: Desk
) -> None:
    destination = Scripted(delivered)
    destination.hold.clear()
    await site.start(destination)
    await site.publish("Ada", "1")
    await until(lambda: destination.attempts == ["Ada:1:1"])
    record = UserRecord(Standing.WAITING, AT, token="run")
    await desk.say(About.USER, record.encoded(), "Ada")
    assert not await desk.applied("run", timeout_s=0.3)
    destination.hold.set()
    assert await desk.applied("run")


async def test_a_redrive_that_fails_again_keeps_the_user_held_and_the_order(
    site: Site, desk: Desk
) -> None:
    destination = Scripted(refuses("5"))
    await site.start(destination, options=HOLDING)
    await desk.make_wait("Ada", "run")
    await site.publish("Ada", "7")
    await desk.send_again(again("Ada", "5", "run"), again("Ada", "6", "run"), end_of("run", "Ada"))
    await site.everything_is_done()
    assert reasons(site) == [("5", "rejected"), ("6", "held"), ("7", "held")]
    held = desk.user("Ada")
    assert held is not None
    assert (held.standing, held.has_failed) == (Standing.HELD, False)
    assert destination.attempts == ["Ada:5:1"]


async def test_without_hold_a_redrive_goes_on_after_a_failure(site: Site, desk: Desk) -> None:
    destination = Scripted(refuses("5"))
    await site.start(destination)
    await desk.make_wait("Ada", "run")
    await site.publish("Ada", "7")
    await desk.send_again(again("Ada", "5", "run"), again("Ada", "6", "run"), end_of("run", "Ada"))
    await site.everything_is_done()
    assert reasons(site) == [("5", "rejected")]
    assert destination.attempts == ["Ada:5:1", "Ada:6:1", "Ada:7:1"]
    assert desk.user("Ada") is None


async def test_the_end_of_another_redrive_lets_nobody_go(site: Site, desk: Desk) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    await desk.make_wait("Ada", "new")
    await site.publish("Ada", "7")
    await desk.send_again(end_of("old", "Ada"), again("Ada", "5", "new"))
    await until(lambda: destination.attempts == ["Ada:5:1"])
    await until(lambda: site.cluster.backlog("events-crm-redrive", "crm") == 0)
    assert desk.user("Ada") is not None
    assert destination.attempts == ["Ada:5:1"]


async def test_what_is_delivered_once_more_says_for_what(site: Site) -> None:
    seen: list[dict[str, str]] = []

    def answer(delivery: Delivery) -> Outcome:
        seen.append(delivery.purposes())
        return Delivered(200)

    await site.start(Scripted(answer))
    desk = Desk(site)
    await desk.send_again(again("Ada", "5", "run"))
    await until(lambda: len(seen) == 1)
    await site.publish("Ada", "6")
    await until(lambda: len(seen) == 2)
    assert seen == [{REDRIVE: "run"}, {}]


async def test_no_attempt_starts_after_a_pause_is_confirmed(site: Site, desk: Desk) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    await desk.say(About.PAUSE, Pause("p", AT).encoded())
    assert await desk.applied("p")
    await site.publish("Ada", "1", "2")
    # Everything that is not paused would be long done.
    await desk.send_again(again("Bob", "1", "run"))
    await asyncio.sleep(0.3)
    assert destination.attempts == []
    assert site.worker.unready_reasons() == ["paused"]

    await desk.say(About.PAUSE, NOTHING)
    assert await desk.applied("", key="crm/paused")
    await site.everything_is_done()
    assert sorted(destination.attempts) == ["Ada:1:1", "Ada:2:1", "Bob:1:1"]


async def test_while_live_traffic_is_stopped_only_what_is_delivered_once_more_is_attempted(
    site: Site, desk: Desk
) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    pause = Pause("p", AT, live_only=True)
    await desk.say(About.PAUSE, pause.encoded())
    assert await desk.applied("p")
    await site.publish("Ada", "1", "2")
    await desk.send_again(again("Bob", "1", "run"))
    await until(lambda: destination.attempts == ["Bob:1:1"])
    await asyncio.sleep(0.2)
    assert destination.attempts == ["Bob:1:1"]
    await desk.say(About.PAUSE, NOTHING)
    await site.everything_is_done()
    assert destination.attempts == ["Bob:1:1", "Ada:1:1", "Ada:2:1"]


def place_of(site: Site, user: str) -> str:
    for number, partition in site.worker._lanes.partitions.items():
        if user in partition.lanes:
            ledger, entry, _ = partition.lanes[user].head.position
            return f"{number}:{ledger}:{entry}"
    raise AssertionError("the user has no lane")


@pytest.mark.parametrize(
    ("what", "attempts", "dead"),
    [
        (What.SKIP, ["Ada:1:1", "Ada:2:1"], []),
        (What.DEAD_LETTER, ["Ada:1:1", "Ada:2:1"], [("1", "operator")]),
        (What.RETRY_NOW, ["Ada:1:1", "Ada:1:2", "Ada:2:1"], []),
    ],
)
async def test_an_order_for_a_stuck_head_is_carried_out_once(
    site: Site,
    desk: Desk,
    what: What,
    attempts: list[str],
    dead: list[tuple[str, str]],
) -> None:
    def answer(delivery: Delivery) -> Outcome:
        if delivery.event.id == "1" and delivery.attempt == 1:
            return Unavailable("later", 503, retry_after_s=1_000)
        return Delivered(200)

    destination = Scripted(answer)
    await site.start(destination, backoff_max_s=1_000)
    await site.publish("Ada", "1", "2")
    await until(lambda: destination.attempts == ["Ada:1:1"])
    order = Order(what, place_of(site, "Ada"), "o", AT)
    await desk.say(About.ORDER, order.encoded(), "Ada")
    assert await desk.applied("o")
    await site.everything_is_done()
    assert destination.attempts == attempts
    assert reasons(site) == dead
    await until(lambda: desk.kept["crm/order/Ada"] == NOTHING)


async def test_an_order_does_not_take_the_end_of_a_redrive(site: Site, desk: Desk) -> None:
    pause = Pause("p", AT)
    await desk.say(About.PAUSE, pause.encoded())
    destination = Scripted(delivered)
    await site.start(destination, is_ready=False)
    await until(lambda: site.worker.unready_reasons() == ["paused"])
    await desk.make_wait("Ada", "run")
    await site.publish("Ada", "1")
    await desk.send_again(end_of("run", "Ada"))
    await until(lambda: site.worker.metrics.counts.received == 2)
    number, lane = next(
        (number, partition.lanes["Ada"])
        for number, partition in site.worker._lanes.partitions.items()
        if number == WHOLE and "Ada" in partition.lanes
    )
    ledger, entry, _ = lane.head.position
    order = Order(What.SKIP, f"{number}:{ledger}:{entry}", "o", AT)
    await desk.say(About.ORDER, order.encoded(), "Ada")
    assert await desk.applied("o")
    assert len(lane) == 1
    await desk.say(About.PAUSE, NOTHING)
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1"]


async def test_a_full_lane_holds_its_user_and_nobody_else(site: Site, desk: Desk) -> None:
    def answer(delivery: Delivery) -> Outcome:
        stuck = delivery.event.user == "Ada"
        return Unavailable("later", 503, retry_after_s=1_000) if stuck else Delivered(200)

    options = LaneOptions(fresh_s=0, lease_s=20, max_lane_events=5, holding=Holding(full_lane=True))
    destination = Scripted(answer)
    await site.start(destination, options=options, backoff_max_s=1_000)
    await site.publish("Ada", *"1234567")
    await site.publish("Bob", "1", "2")
    await site.everything_is_done()
    assert reasons(site) == [("1", "lane-full")] + [(i, "held") for i in "234567"]
    held = desk.user("Ada")
    assert held is not None
    assert held.reason == "lane-full"


async def test_status_and_lanes_are_answered(site: Site, desk: Desk) -> None:
    await site.start(
        Scripted(lambda _: Unavailable("later", 503, retry_after_s=1_000)), backoff_max_s=1_000
    )
    await site.publish("Ada", "1", "2")
    await until(lambda: site.worker.metrics.counts.attempts["unavailable"] == 1)
    (status,) = await desk.asker.ask(Kind.STATUS, "crm", {("crm", "worker-1")}, 5)
    assert (status["backoff"], status["lanes"]) == (1, 1)
    (answer,) = await desk.asker.ask(Kind.LANES, None, {("crm", "worker-1")}, 5, top=5)
    (row,) = answer["lanes"]
    assert (row["user"], row["events"], row["last_status"]) == ("Ada", 2, 503)
    assert row["position"] == place_of(site, "Ada")


async def test_what_nobody_can_read_ends_no_worker(site: Site, desk: Desk) -> None:
    destination = Scripted(delivered)
    await site.start(destination)
    for about, of in ((About.PAUSE, ""), (About.USER, "Ada"), (About.ORDER, "Ada")):
        await desk.say(about, b"{", of)
        await desk.say(about, b"[]", of)
    await desk.say(About.USER, b'{"standing": "dancing", "at": ""}', "Ada")
    for what, position in (("dance", "0:1:2"), ("skip", "x"), ("skip", "0")):
        await desk.say(About.ORDER, Order(what, position, "", AT).encoded(), "Ada")
    await site.publish("Ada", "1")
    await until(lambda: destination.attempts == ["Ada:1:1"])
