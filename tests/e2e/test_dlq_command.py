"""`keylane dlq redrive` and `list` against a real broker, with no worker running."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pulsar
import pytest

from keylane.broker import OutgoingMessage
from keylane.controlrecord import Standing, UserRecord
from keylane.errors import PublishUnconfirmed, SubscriptionBusy
from keylane.names import partition_topic
from keylane.pulsarlog import PulsarLogs
from keylane.redriven import END, ORIGIN_MESSAGE_ID, REDRIVE
from keylane.topics import ensure_destination
from operate.controlsession import ControlSession
from operate.deadletters.filters import Filters
from operate.deadletters.session import Taking, looking
from operate.exits import TRY_AGAIN, exit_code_of
from tests.deadletters import DeadLetters, Letter, ends_of, events_of, letters
from tests.forks import FULL
from tests.jsonforms import assert_is
from tests.rawtopic import Raw
from tests.stage import MakeStage
from tests.waiting import until

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

USERS = [f"user-{number}" for number in range(50)]
EACH = 200 if FULL else 30


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON object that was printed since the last time."""
    return assert_is("dlq-redrive", capsys.readouterr().out)


async def test_a_redrive_killed_in_its_middle_is_finished_by_the_next_and_sends_each_event_once(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    dead = letters(USERS, EACH, padding=900)
    random.Random(7).shuffle(dead)
    await crm.put(dead)

    planned = await crm.dlq("redrive", "crm", "--dry-run")
    killed = crm.start("redrive", "crm", "--rate", str(len(dead) // 5))
    await until(lambda: _is_in_its_middle(crm, len(dead)), 30.0, killed.tail)
    await killed.kill()
    sent_first = await crm.sent_so_far()
    left = await crm.left()
    await crm.redrive(is_dry=True)
    planned_rest = told(capsys)
    done = assert_is("dlq-redrive", await crm.dlq("redrive", "crm"))

    assert (planned["events"], planned["users"]) == (len(dead), len(USERS))
    assert planned["dead_letters"] == len(dead)
    assert 0 < sent_first < len(dead)
    assert 0 < left < len(dead)
    sent = await crm.redriven()
    assert events_of(sent) == {user: list(range(1, EACH + 1)) for user in USERS}
    assert ends_of(sent) == {user: [EACH] for user in USERS}
    assert await crm.left() == 0
    finished = done["finished_before"]
    sent_second = finished["events"] - finished["sent_before"]
    assert sent_second == len(dead) - _events(sent[:sent_first])
    assert finished["events"] == planned_rest["finished_before"]["events"]
    assert (done["events"], done["still_waiting"]) == (0, [])
    assert (planned_rest["events"], planned_rest["still_waiting"]) == (0, [])


def _events(sent: list[Raw]) -> int:
    return sum(map(len, events_of(sent).values()))


async def _is_in_its_middle(crm: DeadLetters, total: int) -> bool:
    return await crm.sent_so_far() > 0.3 * total


async def test_an_event_that_failed_again_meanwhile_is_not_taken_for_one_that_was_sent(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    dead = letters(["ada"], 40)
    await crm.put(dead)

    with monkeypatch.context() as patched:
        # Ends between the confirmed publish and the acknowledgement.
        patched.setattr(Taking, "acknowledge", _not_shown)
        with pytest.raises(PublishUnconfirmed):
            await crm.redrive()
    await crm.put([replace(dead[0], reason="rejected")])
    assert await crm.left() == 41
    capsys.readouterr()

    code = await crm.redrive()

    sent = await crm.redriven()
    assert events_of(sent) == {"ada": list(range(1, 41))}
    assert ends_of(sent) == {"ada": [40]}
    assert await crm.left() == 1
    done = told(capsys)
    assert (done["finished_before"]["events"], done["finished_before"]["sent_before"]) == (40, 40)
    # What it waits for is not delivered yet.
    assert (code, done["still_waiting"]) == (TRY_AGAIN, ["ada"])
    (letter,) = (await crm.dlq("show", "crm"))["dead_letters"]
    assert (letter["id"], letter["reason"]) == ("ada-1", "rejected")


async def test_what_is_redriven_is_the_event_without_what_was_said_of_its_failure(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put([dead := Letter("ada", 1, entry=3, answer="no such customer")])

    assert await crm.redrive() == 0

    event, end = await crm.redriven()
    token = told(capsys)["token"]
    assert (event.key, event.value) == ("ada", dead.payload)
    assert event.properties == {
        "ce_id": "ada-1",
        "ce_type": "keylane.event",
        "content-type": "application/json",
        "REAL_TOPIC": partition_topic(crm.stage.topic, dead.partition),
        ORIGIN_MESSAGE_ID: f"{dead.position[0]}:3:{dead.partition}",
        REDRIVE: token,
    }
    assert (end.key, end.value, end.properties) == ("ada", b"", {END: token})
    assert (await crm.users())["ada"].token == token


async def test_two_dead_letters_of_one_event_are_sent_once_and_both_acknowledged(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    dead = letters(["ada", "bob"], 2)
    await crm.put([*dead, dead[0], dead[0]])

    assert await crm.redrive() == 0

    done = told(capsys)
    assert (done["dead_letters"], done["events"], done["duplicates"]) == (6, 4, 2)
    assert events_of(await crm.redriven()) == {"ada": [1, 2], "bob": [1, 2]}
    assert await crm.left() == 0


async def test_only_what_matches_is_redriven_and_a_held_user_goes_whole(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    ada = [Letter("ada", n, entry=n, reason="held" if n > 1 else "rejected") for n in (1, 2, 3)]
    bob = [Letter("bob", n, entry=n, reason="max-age" if n > 1 else "rejected") for n in (1, 2, 3)]
    await crm.put([*ada, *bob])
    held = UserRecord(
        Standing.HELD, "2026-01-31T12:00:00.000Z", position="1:2:3", reason="rejected"
    )
    await crm.say("ada", held)
    only = Filters(reason=("rejected",))

    await crm.redrive(only, is_dry=True)
    planned = told(capsys)
    assert await crm.redrive(only) == 0
    done = told(capsys)

    assert events_of(await crm.redriven()) == {"ada": [1, 2, 3], "bob": [1]}
    counted = ("dead_letters", "events", "users", "held_users", "duplicates", "foreign")
    assert [planned[name] for name in counted] == [done[name] for name in counted]
    assert [done[name] for name in counted] == [4, 4, 2, 1, 0, 0]
    assert await crm.left() == 2
    now = (await crm.users())["ada"]
    assert (now.standing, now.token) == (Standing.WAITING, done["token"])
    assert (now.position, now.reason) == (held.position, held.reason)


async def test_without_the_word_of_all_workers_nothing_is_redriven_and_nobody_waits(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put(letters(["ada", "bob"], 2))
    held = UserRecord(Standing.HELD, "2026-01-31T12:00:00.000Z", reason="rejected")
    await crm.say("ada", held)

    async def silent(*_: object) -> set[str]:
        return {"worker-2", "worker-1"}

    with monkeypatch.context() as patched:
        patched.setattr(ControlSession, "unconfirmed", silent)
        assert await crm.redrive() == TRY_AGAIN

    captured = capsys.readouterr()
    assert json.loads(captured.out)["unconfirmed"] == ["worker-1", "worker-2"]
    assert "worker-1, worker-2" in captured.err
    stands = await crm.users()
    assert list(stands) == ["ada"]
    assert (stands["ada"].standing, stands["ada"].reason) == (Standing.HELD, "rejected")
    assert await crm.redriven() == []
    assert await crm.left() == 4
    # Nor is anything left that the next one would have to finish.
    assert await crm.redrive() == 0
    assert told(capsys)["finished_before"] is None


async def test_dead_letters_of_others_come_last_and_are_sent_once(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    foreign = [
        OutgoingMessage("ada", b'{"n": 8}', {"a": "b"}),
        OutgoingMessage("ada", b'{"n": 9}', {ORIGIN_MESSAGE_ID: "1:2:0", "REAL_TOPIC": "other"}),
        OutgoingMessage("", b'{"n": 10}'),
    ]
    await crm.put_messages(foreign)
    await crm.put(letters(["ada"], 2))

    with monkeypatch.context() as patched:
        patched.setattr(Taking, "confirm", _not_shown)
        patched.setattr(Taking, "acknowledge", _forgotten)
        with pytest.raises(PublishUnconfirmed):
            await crm.redrive()
    capsys.readouterr()
    assert await crm.redrive() == 0

    sent = await crm.redriven()
    assert events_of(sent) == {"ada": [1, 2, 8, 9], "": [10]}
    assert ends_of(sent) == {"ada": [4]}
    finished = told(capsys)["finished_before"]
    assert (finished["foreign"], finished["sent_before"]) == (3, 5)
    assert await crm.left() == 0
    # Its own place is its origin from now on.
    (strange,) = [one for one in sent if one.value == b'{"n": 9}']
    assert strange.properties["REAL_TOPIC"] == crm.topic


async def _forgotten(*_: object) -> None:
    """An acknowledgement that does not reach the broker."""


async def _not_shown(*_: object) -> None:
    raise PublishUnconfirmed


async def test_a_batch_is_redriven_as_a_whole_or_not_at_all(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    client = pulsar.Client(
        crm.access.service_url, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/stderr")
    )
    producer = client.create_producer(
        crm.topic, batching_enabled=True, batching_max_publish_delay_ms=1000
    )
    for n, reason in enumerate(["rejected", "max-age", "rejected"]):
        message = Letter("ada", n, entry=n, reason=reason).message(crm.stage.topic)
        producer.send_async(
            message.value,
            lambda *_: None,
            partition_key=message.key,
            properties=dict(message.properties),
        )
    producer.flush()
    client.close()

    assert await crm.redrive(Filters(reason=("rejected",))) == 0
    assert told(capsys)["in_shared_batches"] == 2
    assert _events(await crm.redriven()) == 0

    await crm.redrive()
    assert events_of(await crm.redriven()) == {"ada": [0, 1, 2]}
    assert await crm.left() == 0


async def test_two_commands_that_take_dead_letters_exclude_each_other(
    make_stage: MakeStage,
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put(letters(["ada"], 1))
    async with looking(crm.settings, "crm") as found:
        await Taking.open(found)

        with pytest.raises(SubscriptionBusy, match="Nothing was done") as raised:
            await crm.redrive()

    assert exit_code_of(raised.value) == TRY_AGAIN
    assert await crm.left() == 1


async def test_a_redrive_of_a_user_whose_end_mark_was_cleared_away_is_possible(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    dead = letters(["ada"], 2)
    await crm.put(dead)
    lost = UserRecord(Standing.WAITING, "2026-01-31T12:00:00.000Z", token="of-one-that-is-done")
    await crm.say("ada", lost)

    assert await crm.redrive() == 0

    assert events_of(await crm.redriven()) == {"ada": [1, 2]}
    assert (await crm.users())["ada"].token == told(capsys)["token"]


async def test_the_list_groups_and_what_was_acknowledged_is_not_in_it(
    make_stage: MakeStage,
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put(letters(["ada", "bob"], 3))
    await crm.put([Letter("ada", 4, entry=9, reason="held", at_ms=0, status=None)])
    async with looking(crm.settings, "crm") as found:
        taking = await Taking.open(found)
        places = [one.place async for one in found.view.letters()]
        gone = [places[1], places[2], places[4]]
        await taking.acknowledge(gone)
        await taking.confirm(gone)

    found_list = assert_is("dlq-list", await crm.dlq("list", "crm"))
    groups = {(g["reason"], g["user"]): g["dead_letters"] for g in found_list["groups"]}
    assert groups == {("max-attempts", "ada"): 1, ("max-attempts", "bob"): 2, ("held", "ada"): 1}
    assert (found_list["dead_letters"], found_list["users"]) == (4, 2)
    held = assert_is("dlq-show", await crm.dlq("show", "crm", "--reason", "held"))
    assert held["dead_letters"][0]["last_attempt_at"] is None
    assert await crm.left() == 4


async def test_a_dead_letter_topic_with_partitions_is_looked_at_and_redriven_whole(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = await make_stage()
    crm = DeadLetters(stage)
    async with stage.admin() as admin:
        # As another program may have made it.
        await admin.create_partitioned_topic(crm.topic, 2)
        await ensure_destination(admin, stage.topic, "crm")
    dead = [one.message(stage.topic) for one in letters(["ada", "bob"], 4)]
    async with PulsarLogs(crm.access) as logs:
        for part in (0, 1):
            publisher = await logs.publisher(partition_topic(crm.topic, part), "test")
            await publisher.publish(list(enumerate([*dead[part::2], *dead[:2]])))

    assert await crm.redrive() == 0

    assert events_of(await crm.redriven()) == {"ada": [1, 2, 3, 4], "bob": [1, 2, 3, 4]}
    assert told(capsys)["duplicates"] == 4
    async with looking(crm.settings, "crm") as found:
        assert [one async for one in found.view.letters()] == []
