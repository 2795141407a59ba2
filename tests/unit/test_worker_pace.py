"""The shell with a destination that fails as a whole, wants nothing more, or is replaced."""

from __future__ import annotations

import asyncio
from random import Random

from structlog.testing import capture_logs

from dispatch.breaker import BreakerOptions
from dispatch.delivery import Delivery
from dispatch.outcome import Disabled, Forbidden, Outcome, Unavailable
from dispatch.pace import PaceOptions
from dispatch.retry import Backoff, RetryPolicy
from keylane.controlrecord import NOTHING
from keylane.names import control_topic
from tests.unit.worker_site import Immediate, Scripted, Site, delivered
from tests.waiting import until

DOWN = Unavailable("answered 503", 503, is_down=True)
USERS = [f"user-{n}" for n in range(20)]
FAST = PaceOptions(breaker=BreakerOptions(users=5, after_s=0.2, probe_min_s=0.05, probe_max_s=0.1))


def down(_: Delivery) -> Outcome:
    return DOWN


async def test_an_outage_spends_no_attempts_and_kills_no_event(site: Site) -> None:
    destination = Scripted(down)
    await site.start(destination, pace=FAST)
    for user in USERS:
        await site.publish(user, "1", "2")
    # Longer than two attempts and the backoff between them take.
    await until(lambda: site.worker.metrics.counts.attempts_spared > 60)
    assert site.dead() == []
    # What was counted before it was clear is taken back.
    assert {line.rpartition(":")[2] for line in destination.attempts[-10:]} == {"1"}
    destination.answer = delivered
    await site.everything_is_done()
    assert site.dead() == []
    last: dict[str, str] = {}
    for line in destination.attempts:
        user, event_id, _ = line.split(":")
        assert last.get(user, "1") <= event_id
        last[user] = event_id


async def test_probes_go_one_at_a_time_to_one_user_after_another(site: Site) -> None:
    destination = Scripted(down)
    await site.start(destination, pace=FAST)
    for user in USERS:
        await site.publish(user, "1")
    probes = site.worker.metrics.counts
    # Those by which it was found out, then probes until everybody's backoff is over, then these.
    await until(lambda: probes.attempts_spared > 50)
    last = [line.split(":")[0] for line in destination.attempts[-10:]]
    assert len(set(last)) == 10


async def test_it_says_when_the_destination_is_down_and_when_it_is_back(site: Site) -> None:
    destination = Scripted(down)
    with capture_logs() as logs:
        await site.start(destination, pace=FAST)
        for user in USERS:
            await site.publish(user, "1")
        await until(lambda: any(line["event"] == "destination.down" for line in logs))
        destination.answer = delivered
        await site.everything_is_done()
    assert [line["event"] for line in logs if line["event"].startswith("destination.")] == [
        "destination.down",
        "destination.back",
    ]


async def test_a_destination_that_never_waits_has_a_breaker_too(site: Site) -> None:
    destination = Immediate(down)
    await site.start(destination, pace=FAST)
    for user in USERS:
        await site.publish(user, "1")
    await until(lambda: site.worker.metrics.counts.attempts_spared > 20)
    destination.answer = delivered
    await site.everything_is_done()
    assert site.dead() == []


async def test_however_long_an_outage_lasts_an_event_gets_only_so_old(site: Site) -> None:
    destination = Scripted(down)
    await site.start(destination, pace=FAST, max_age_s=0.3)
    for user in USERS:
        await site.publish(user, "1")
    await until(lambda: len(site.dead()) > 3)
    assert site.dead()[0].properties()["keylane-reason"] == "max-age"


async def test_a_destination_that_wants_nothing_more_keeps_its_events_until_it_is_resumed(
    site: Site,
) -> None:
    def gone(_: Delivery) -> Outcome:
        return Disabled("answered 410", 410)

    destination = Scripted(gone)
    await site.start(destination)
    await site.publish("Ada", "1", "2")
    await until(lambda: bool(site.worker.unready_reasons()))
    assert site.worker.unready_reasons() == ["the destination is disabled: answered 410"]
    await site.publish("Bob", "1")
    await asyncio.sleep(0.1)
    assert destination.attempts == ["Ada:1:1"]
    destination.answer = delivered
    table = await site.broker.table(control_topic("events"), lambda *_: None)
    await table.put("crm", NOTHING)
    await site.everything_is_done()
    assert sorted(destination.attempts) == ["Ada:1:1", "Ada:1:1", "Ada:2:1", "Bob:1:1"]


async def test_a_worker_that_starts_later_knows_that_the_destination_is_disabled(
    site: Site,
) -> None:
    destination = Scripted(lambda _: Disabled("answered 410", 410))
    await site.start(destination)
    await site.publish("Ada", "1")
    await until(lambda: bool(site.worker.unready_reasons()))
    await site.end()
    site.stop.clear()
    second = Scripted(delivered)
    await site.start(second, is_ready=False)
    await until(lambda: "the destination is disabled" in str(site.worker.unready_reasons()))
    assert second.attempts == []


async def test_a_forbidden_address_is_a_dead_letter_at_once(site: Site) -> None:
    destination = Scripted(lambda _: Forbidden("10.0.0.1 is an internal address"))
    await site.start(destination)
    await site.publish("Ada", "1")
    await site.everything_is_done()
    assert destination.attempts == ["Ada:1:1"]
    properties = site.dead()[0].properties()
    assert properties["keylane-reason"] == "forbidden"
    assert properties["keylane-last-error"] == "10.0.0.1 is an internal address"


async def test_the_last_answer_is_kept_with_the_dead_letter(site: Site) -> None:
    destination = Scripted(lambda _: Unavailable("answered 500", 500, answer="x" * 20_000))
    await site.start(destination)
    await site.publish("Ada", "1")
    await site.everything_is_done()
    assert site.dead()[0].properties()["keylane-last-answer"] == "x" * 16_384


async def test_a_new_destination_gets_what_starts_from_then_on(site: Site) -> None:
    old, new = Scripted(delivered), Scripted(delivered)
    old.hold.clear()
    await site.start(old)
    await site.publish("Ada", "1", "2")
    await until(lambda: old.attempts == ["Ada:1:1"])
    policy = RetryPolicy(max_attempts=1, max_age_s=1, backoff=Backoff(), rng=Random(1))
    site.worker.reconfigure(new, policy, PaceOptions(), 1)
    await site.publish("Bob", "1")
    await until(lambda: new.attempts == ["Bob:1:1"])
    assert not old.is_closed
    old.hold.set()
    await until(lambda: old.is_closed)
    await site.everything_is_done()
    assert new.attempts == ["Bob:1:1", "Ada:2:1"]
    assert not new.is_closed


async def test_an_idle_destination_is_closed_as_soon_as_it_is_replaced(site: Site) -> None:
    old = Immediate(delivered)
    await site.start(old)
    policy = RetryPolicy(max_attempts=1, max_age_s=1, backoff=Backoff(), rng=Random(1))
    site.worker.reconfigure(Scripted(delivered), policy, PaceOptions(), 1)
    await until(lambda: old.is_closed)
