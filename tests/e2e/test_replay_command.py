"""`keylane replay` against a real broker, with no worker running."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from keylane.controlrecord import About, Key, Pause
from keylane.event import rfc3339
from keylane.names import partition_topic, redrive_topic
from keylane.pulsar import PulsarBroker
from keylane.redriven import ORIGIN_MESSAGE_ID, REAL_TOPIC, REPLAY
from keylane.routing import partition_of
from keylane.settings import Settings
from operate.cli import app
from operate.controlsession import ControlSession
from operate.replaying import session as replay_session
from tests.commandline import alone
from tests.jsonforms import assert_is
from tests.processes import Process
from tests.rawtopic import Raw, Sent, drain_raw, read_raw, send_raw
from tests.stage import MakeStage, Stage
from tests.waiting import until

__all__ = ["alone"]
pytestmark = [
    pytest.mark.real_broker,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("alone"),
]

PARTITIONS = 2
USERS = [f"user-{number}" for number in range(10)]


class Scene:
    """A topic with events, and the topic on which `crm` gets some of them once more."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.url = stage.broker.service_url
        self.again = redrive_topic(stage.topic, "crm")
        self._numbers = dict.fromkeys(USERS, 0)

    async def publish(self, events_each: int, users: Sequence[str] = tuple(USERS)) -> None:
        """The next events of each user, of two types by turns."""
        by_partition: dict[int, list[Sent]] = {}
        for _ in range(events_each):
            for user in users:
                n = self._numbers[user] = self._numbers[user] + 1
                properties = {"ce_id": f"{user} {n}", "ce_type": "odd" if n % 2 else "even"}
                by_partition.setdefault(partition_of(user, PARTITIONS), []).append(
                    Sent(user, b"%d" % n, properties)
                )
        for partition, messages in by_partition.items():
            await self.put(partition, messages)

    async def put(self, partition: int, messages: Sequence[Sent]) -> None:
        topic = partition_topic(self.stage.topic, partition)
        await asyncio.to_thread(send_raw, self.url, topic, messages)

    async def kept(self) -> dict[int, list[Raw]]:
        """What an independent reader finds, by partition."""
        topics = {n: partition_topic(self.stage.topic, n) for n in range(PARTITIONS)}
        return {n: await asyncio.to_thread(read_raw, self.url, t) for n, t in topics.items()}

    async def copies(self) -> list[Raw]:
        return await asyncio.to_thread(read_raw, self.url, self.again)

    async def drain(self) -> list[Raw]:
        return await asyncio.to_thread(drain_raw, self.url, self.again, "crm")

    async def has_copies(self, count: int, saying: Callable[[], str]) -> None:
        async with self.stage.admin() as admin:

            async def are_there() -> bool:
                if await admin.partitions(self.again) is None:
                    return False
                return int((await admin.stats(self.again))["msgInCounter"]) >= count

            await until(are_there, 30.0, saying)

    async def command(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What `keylane replay crm --json` with these words says."""
        done = await self.run(*words, "--json")
        assert done.exit_code == code, done.output
        if not done.stdout:
            return {"stderr": done.stderr}
        kind = [word[2:] for word in words if word in {"--list", "--cancel"}]
        return assert_is("-".join(["replay", *kind]), done.stdout) | {"stderr": done.stderr}

    async def run(self, *words: str) -> Any:
        where = ["--service-url", self.url, "--admin-url", self.stage.broker.admin_url]
        line = ["replay", "crm", *words, *where, "--topic", self.stage.topic]
        return await asyncio.to_thread(
            CliRunner().invoke, app, line, catch_exceptions=False, env={"COLUMNS": "200"}
        )

    def start(self, *words: str) -> Process:
        return self.stage.run("replay", "crm", *words)

    async def records(self) -> Mapping[str, bytes]:
        """The control table."""
        pulsar = {"service_url": self.url, "admin_url": self.stage.broker.admin_url}
        settings = Settings.model_validate({"topic": self.stage.topic, "pulsar": pulsar})
        broker = PulsarBroker.of(settings.pulsar)
        try:
            async with (
                self.stage.admin() as admin,
                ControlSession(settings, admin, broker) as control,
            ):
                return dict(control.kept)
        finally:
            await broker.close()

    async def forget_all(self) -> None:
        """As a retention that has passed does: nothing is kept of what is acknowledged."""
        root = f"{self.stage.broker.admin_url}/admin/v2/persistent/public/default"
        async with aiohttp.ClientSession() as http:
            for n in range(PARTITIONS):
                part = f"{root}/{self.stage.topic}-partition-{n}"
                async with http.post(f"{part}/subscription/crm/skip_all") as answer:
                    assert answer.status < 300, await answer.text()
                # Only a ledger that is closed goes.
                async with http.put(f"{part}/unload") as answer:
                    assert answer.status < 300, await answer.text()
                async with http.delete(f"{part}/truncate") as answer:
                    assert answer.status < 300, await answer.text()


@pytest.fixture
async def scene(make_stage: MakeStage) -> Scene:
    return Scene(await make_stage("crm", partitions=PARTITIONS))


def origin(partition: int, message: Raw) -> str:
    ledger, entry, index = message.position
    return f"{ledger}:{entry}:{partition}" + (f":{index}" if index >= 0 else "")


def assert_copied(copies: Sequence[Raw], wanted: Mapping[int, Sequence[Raw]], topic: str) -> None:
    """Each once, those of a partition in their order, with all that the events have."""
    for n, messages in wanted.items():
        real = partition_topic(topic, n)
        own = [copy for copy in copies if copy.properties[REAL_TOPIC] == real]
        assert [copy.properties[ORIGIN_MESSAGE_ID] for copy in own] == [
            origin(n, message) for message in messages
        ]
        for copy, message in zip(own, messages, strict=True):
            assert (copy.key, copy.value) == (message.key, message.value)
            assert message.properties.items() <= copy.properties.items()
    assert len(copies) == sum(map(len, wanted.values()))


async def test_a_window_is_copied_as_an_independent_reader_counts_it(scene: Scene) -> None:
    for _ in range(3):
        await scene.publish(3)
        await asyncio.sleep(0.02)
    kept = await scene.kept()
    # From the very millisecond of an event on, and before that of another.
    first = min(m.published_ms for ms in kept.values() for m in ms if int(m.value) > 3)
    last = max(m.published_ms for ms in kept.values() for m in ms)
    wanted = {n: [m for m in ms if first <= m.published_ms < last] for n, ms in kept.items()}
    assert 0 < sum(map(len, wanted.values())) < 90
    window = ["--from", rfc3339(first), "--to", rfc3339(last)]

    counted = await scene.command(*window, "--dry-run")
    told = await scene.command(*window)

    copies = await scene.copies()
    assert_copied(copies, wanted, scene.stage.topic)
    assert {copy.properties[REPLAY] for copy in copies} == {told["id"]}
    figures = {
        "events": len(copies),
        "users": len({copy.key for copy in copies}),
        "from": rfc3339(first),
        "to": rfc3339(last),
        "kept_from": None,
    }
    assert figures.items() <= counted.items()
    assert (figures | {"published": len(copies), "state": "published"}).items() <= told.items()
    assert (counted["state"], counted["id"], counted["published"]) == ("counted", None, 0)
    (listed,) = (await scene.command("--list"))["replays"]
    assert (listed["id"], listed["state"], listed["events"]) == (
        told["id"],
        "finished",
        len(copies),
    )


async def test_a_window_that_ends_now_is_counted_without_following_live_events(
    scene: Scene,
) -> None:
    await scene.publish(3)
    is_over = threading.Event()

    def live() -> Iterator[Sent]:
        while not is_over.wait(0.002):
            yield Sent("user-1", b"live")

    topic = partition_topic(scene.stage.topic, 0)
    sending = asyncio.create_task(asyncio.to_thread(send_raw, scene.url, topic, live()))
    try:
        # Publishers' clocks may differ by a minute: it followed the live events for as long.
        async with asyncio.timeout(20):
            counted = await scene.command("--from", "1h", "--dry-run")
    finally:
        is_over.set()
        await sending

    kept = await scene.kept()
    assert 30 <= counted["events"] < sum(map(len, kept.values()))


async def test_only_a_users_events_of_one_type_are_copied(scene: Scene) -> None:
    await scene.publish(6)
    kept = await scene.kept()
    wanted = {
        n: [m for m in ms if m.key == "user-7" and m.properties["ce_type"] == "odd"]
        for n, ms in kept.items()
    }

    told = await scene.command("--from", "1h", "--user", "user-7", "--type", "odd")

    assert (told["events"], told["users"]) == (3, 1)
    assert_copied(await scene.copies(), wanted, scene.stage.topic)


async def test_foreign_messages_are_copied_as_far_as_they_can_be_read(scene: Scene) -> None:
    foreign = [
        Sent("", b"no key"),
        Sent("Zo\u00eb", b"bare"),
        Sent("user-1", b"no text", {"ce_type": b"\xff"}),
        Sent("user-1", b"empty", {"ce_type": ""}),
    ]
    await scene.put(0, foreign)
    kept = await scene.kept()

    told = await scene.command("--from", "1h", "--type", "keylane.event")

    figures = {"events": 3, "users": 2, "without_key": 1, "unreadable": 1, "published": 3}
    assert figures.items() <= told.items()
    assert "1 of them have no key" in told["stderr"]
    assert "1 more are left out" in told["stderr"]
    copies = await scene.copies()
    readable = [m for m in kept[0] if m.value != b"no text"]
    assert_copied(copies, {0: readable}, scene.stage.topic)
    # What its id is made of at the first delivery is its place, and that is another for a copy.
    assert [copy.properties["ce_id"] for copy in copies] == [origin(0, m) for m in readable]


async def test_a_replay_that_is_killed_and_interrupted_goes_on_without_a_second_copy(
    scene: Scene,
) -> None:
    await scene.publish(60)
    words = ["--from", "1h", "--rate", "100"]

    killed = scene.start(*words)
    await scene.has_copies(60, killed.tail)
    await killed.kill()
    # Comes too late for the window, which stays as it was.
    await scene.publish(1)
    interrupted = scene.start(*words)
    await scene.has_copies(150, interrupted.tail)
    interrupted.signal(signal.SIGINT)
    assert await interrupted.exited() == 130
    (stopped,) = (await scene.command("--list"))["replays"]
    told = await scene.command("--from", " 1H ")

    assert f"--resume {told['id']}" in interrupted.tail()
    assert (stopped["id"], stopped["state"]) == (told["id"], "stopped")
    assert told["goes_on"]
    assert told["events"] == told["published"] + told["published_before"] == 600
    assert told["published_before"] >= 150
    wanted = {n: [m for m in ms if int(m.value) <= 60] for n, ms in (await scene.kept()).items()}
    assert_copied(await scene.copies(), wanted, scene.stage.topic)


async def test_a_cancelled_replay_stops_and_leaves_what_it_published(scene: Scene) -> None:
    await scene.publish(40)
    began = time.monotonic()
    process = scene.start("--from", "1h", "--rate", "40")
    await scene.has_copies(8, process.tail)
    (running,) = (await scene.command("--list"))["replays"]

    await scene.command("--cancel", running["id"])

    assert await process.exited() == 1
    assert "was cancelled" in process.tail()
    assert running["state"] == "running"
    assert (await scene.command("--list"))["replays"] == []
    left = await scene.copies()
    assert 8 <= len(left) <= 40 * (time.monotonic() - began)
    told = await scene.command("--from", "1h")
    assert (told["goes_on"], told["published"]) == (False, 400)


async def test_what_is_not_kept_any_more_is_said(scene: Scene) -> None:
    await scene.publish(2)
    await scene.forget_all()
    began = time.time_ns() // 1_000_000

    gone = await scene.command("--from", "1h")
    await scene.publish(1)
    part = await scene.command("--from", "1h", "--dry-run")

    assert (gone["events"], gone["state"], gone["id"]) == (0, "counted", None)
    assert gone["kept_from"] >= rfc3339(began)
    assert "is gone" in gone["stderr"]
    assert part["events"] == 10
    kept = await scene.kept()
    begins = [min(m.published_ms for m in messages) for messages in kept.values()]
    assert part["kept_from"] == rfc3339(max(begins))


async def test_more_than_some_are_replayed_only_if_somebody_agrees(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_session, "ASK_ABOVE", 9)
    await scene.publish(1)

    refused = await scene.run("--from", "1h")
    async with scene.stage.admin() as admin:
        assert await admin.partitions(scene.again) is None
    told = await scene.command("--from", "1h", "--yes")

    assert refused.exit_code == 2
    assert "Give --yes" in refused.stderr
    assert told["published"] == 10


async def test_live_events_wait_for_a_replay_that_comes_instead_and_survives_its_killing(
    scene: Scene,
) -> None:
    await scene.publish(3)
    words = ["--from", "1h", "--instead"]
    process = scene.start(*words)
    await scene.has_copies(30, process.tail)
    await process.kill()
    pause = Pause.decoded((await scene.records())[str(Key("crm", About.PAUSE))])
    assert pause.live_only

    resumed = asyncio.create_task(scene.command(*words))
    copies = await scene.drain()
    told = await resumed

    assert len(copies) == 30
    assert (told["goes_on"], told["published_before"], told["state"]) == (True, 30, "delivered")
    assert "No worker of crm runs" in told["stderr"]
    assert str(Key("crm", About.PAUSE)) not in await scene.records()


async def test_a_pause_of_somebody_else_is_left_alone(scene: Scene) -> None:
    await scene.publish(1)
    where = ["--service-url", scene.url, "--admin-url", scene.stage.broker.admin_url]
    words = ["pause", "crm", *where, "--topic", scene.stage.topic]
    await asyncio.to_thread(CliRunner().invoke, app, words, catch_exceptions=False)

    refused = await scene.command("--from", "1h", "--instead", code=1)
    beside = await scene.command("--from", "1h")

    assert "keylane resume crm" in refused["stderr"]
    assert "crm is paused" in beside["stderr"]
    assert str(Key("crm", About.PAUSE)) in await scene.records()
