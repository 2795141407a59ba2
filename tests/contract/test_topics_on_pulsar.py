from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from typing_extensions import override

from keylane.admin import PulsarAdmin
from keylane.broker import OutgoingMessage, Received
from keylane.errors import BrokerError, BrokerUnavailable, ConfigurationError
from keylane.names import dead_letter_topic, full_topic, partition_topic
from keylane.pulsar import PulsarBroker
from keylane.settings import PulsarSettings
from keylane.topics import POLICIES, ensure_destination, ensure_topic
from tests.brokers import BrokerAddress
from tests.waiting import until

pytestmark = pytest.mark.real_broker


@pytest.fixture
async def admin(local_broker: BrokerAddress) -> AsyncIterator[PulsarAdmin]:
    async with PulsarAdmin(PulsarSettings(admin_url=local_broker.admin_url)) as admin:
        await admin.wait_until_healthy()
        yield admin


@pytest.fixture
async def pulsar(local_broker: BrokerAddress) -> AsyncIterator[PulsarBroker]:
    broker = PulsarBroker(local_broker.service_url)
    yield broker
    await broker.close()


@pytest.fixture
def topic() -> str:
    return f"topics-{uuid.uuid4().hex[:12]}"


async def _publish(pulsar: PulsarBroker, topic: str, count: int, key: str = "user-1") -> None:
    publisher = await pulsar.publisher(topic)
    receipts: list[Any] = []
    for number in range(count):
        publisher.send(OutgoingMessage(key, b"%d" % number), receipts.append)
    await until(lambda: len(receipts) == count, 15.0)
    assert not [receipt for receipt in receipts if isinstance(receipt, BrokerError)]


async def test_a_new_topic_has_its_partitions_and_policies(admin: PulsarAdmin, topic: str) -> None:
    changes = await ensure_topic(admin, topic)

    assert changes[0] == f"created {full_topic(topic)} with 3 partitions"
    assert "maxUnackedMessagesOnSubscription" in changes[1]
    assert await admin.partitions(topic) == 3
    for policy in POLICIES:
        assert policy.is_in_place(await admin.policy(topic, policy.read)), policy.read


class LateAdmin(PulsarAdmin):
    """Sees a partition go by its old quota for the first so many looks."""

    late = 0
    looks = 0

    @override
    async def stats(self, topic: str) -> dict[str, Any]:
        self.looks += 1
        found = await super().stats(topic)
        return found | {"backlogQuotaLimitSize": 1} if self.looks <= self.late else found


async def test_policies_are_waited_for_until_they_are_in_force(
    local_broker: BrokerAddress, topic: str
) -> None:
    async with LateAdmin(PulsarSettings(admin_url=local_broker.admin_url)) as admin:
        admin.late = 3
        await ensure_topic(admin, topic, 1)

        assert admin.looks >= 4


async def test_policies_that_do_not_come_into_force_are_told(
    local_broker: BrokerAddress, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keylane.topics.IN_FORCE_WITHIN_S", 0.2)
    async with LateAdmin(PulsarSettings(admin_url=local_broker.admin_url)) as admin:
        admin.late = 1_000
        with pytest.raises(BrokerUnavailable, match=r"not in force after 0\.2 s"):
            await ensure_topic(admin, topic, 1)


async def test_a_second_run_changes_nothing(admin: PulsarAdmin, topic: str) -> None:
    await ensure_topic(admin, topic, 2)
    await ensure_destination(admin, topic, "crm")

    assert await ensure_topic(admin, topic, 2) == []
    assert await ensure_topic(admin, topic) == []
    assert await ensure_destination(admin, topic, "crm") == []


async def test_an_operators_own_figures_stay(admin: PulsarAdmin, topic: str) -> None:
    await ensure_topic(admin, topic, 1)
    quota = {"limitSize": 5_000_000, "limitTime": -1, "policy": "producer_request_hold"}
    await admin.set_policy(topic, "backlogQuota?backlogQuotaType=destination_storage", quota)
    retention = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
    await admin.set_policy(topic, "retention", retention)

    async def are_set() -> bool:
        found = await admin.policy(topic, "retention")
        return bool(found == retention)

    await until(are_set)

    assert await ensure_topic(admin, topic) == []
    assert await admin.policy(topic, "retention") == retention


async def test_a_quota_that_drops_events_does_not_stay(admin: PulsarAdmin, topic: str) -> None:
    await ensure_topic(admin, topic, 1)
    quota = {"limitSize": 5_000_000, "limitTime": -1, "policy": "consumer_backlog_eviction"}
    await admin.set_policy(topic, "backlogQuota?backlogQuotaType=destination_storage", quota)

    async def is_set() -> bool:
        found = await admin.policy(topic, "backlogQuotaMap")
        return bool(found["destination_storage"]["policy"] == "consumer_backlog_eviction")

    await until(is_set)

    assert await ensure_topic(admin, topic) == [f"set on {full_topic(topic)}: backlogQuota"]


async def test_more_partitions_are_added_and_get_the_subscriptions(
    admin: PulsarAdmin, topic: str
) -> None:
    await ensure_topic(admin, topic, 2)
    await ensure_destination(admin, topic, "crm")

    changes = await ensure_topic(admin, topic, 4)
    await ensure_destination(admin, topic, "crm")

    assert len(changes) == 1
    assert "from 2 to 4 partitions; users move between partitions" in changes[0]
    for partition in range(4):
        assert await admin.subscriptions(partition_topic(topic, partition)) == ["crm"]


async def test_fewer_partitions_are_refused(admin: PulsarAdmin, topic: str) -> None:
    await ensure_topic(admin, topic, 3)

    with pytest.raises(ConfigurationError, match="has 3 partitions and can't shrink to 2"):
        await ensure_topic(admin, topic, 2)


@pytest.mark.parametrize("ensure", [ensure_topic, lambda a, t: ensure_destination(a, t, "crm")])
async def test_a_topic_without_partitions_is_refused(
    admin: PulsarAdmin, topic: str, ensure: Callable[[PulsarAdmin, str], Awaitable[list[str]]]
) -> None:
    await admin.create_topic(topic)

    with pytest.raises(ConfigurationError, match="exists without partitions"):
        await ensure(admin, topic)


async def test_a_destination_of_no_topic_is_refused(admin: PulsarAdmin, topic: str) -> None:
    with pytest.raises(ConfigurationError, match="keylane topic setup"):
        await ensure_destination(admin, topic, "crm")

    assert await admin.partitions(dead_letter_topic(topic, "crm")) is None


async def test_a_destination_gets_a_dead_letter_topic_that_keeps_everything(
    admin: PulsarAdmin, pulsar: PulsarBroker, topic: str
) -> None:
    await ensure_topic(admin, topic, 1)
    await ensure_destination(admin, topic, "crm")
    dead = dead_letter_topic(topic, "crm")

    await _publish(pulsar, dead, 3)

    assert dead == f"persistent://public/default/{topic}-crm-DLQ"
    assert await admin.partitions(dead) == 0
    assert await admin.policy(dead, "messageTTL") == 0
    stats = await admin.subscription_stats(dead, "keylane")
    assert stats is not None
    assert stats["msgBacklog"] == 3
    assert await admin.subscription_stats(dead, "crm") is None


async def test_a_destination_that_is_added_later_begins_at_the_earliest_event(
    admin: PulsarAdmin, pulsar: PulsarBroker, topic: str
) -> None:
    await ensure_topic(admin, topic, 1)
    await _publish(pulsar, topic, 5)

    await ensure_destination(admin, topic, "late")

    got: list[bytes] = []
    await pulsar.subscribe(
        topic, 0, "late", "one", lambda _, batch: got.extend(m.value() for m in batch)
    )
    await until(lambda: got == [b"0", b"1", b"2", b"3", b"4"], saying=lambda: got)


@pytest.mark.long
async def test_the_broker_does_not_stop_at_50_000_unacknowledged_events(
    admin: PulsarAdmin, pulsar: PulsarBroker, topic: str
) -> None:
    await ensure_topic(admin, topic, 1)
    await ensure_destination(admin, topic, "crm")
    held: list[Received] = []
    await pulsar.subscribe(topic, 0, "crm", "one", lambda _, batch: held.extend(batch))

    for _ in range(6):
        await _publish(pulsar, topic, 9_000)

    await until(lambda: len(held) == 54_000, 30.0, lambda: len(held))


async def test_odd_names_reach_the_broker_as_they_are(admin: PulsarAdmin, topic: str) -> None:
    odd = f"{topic}=a:b.c"
    await ensure_topic(admin, odd, 1)
    await ensure_destination(admin, odd, "a.b-c_d")

    assert await admin.subscriptions(partition_topic(odd, 0)) == ["a.b-c_d"]


async def test_a_namespace_that_is_not_there_is_told(local_broker: BrokerAddress) -> None:
    settings = PulsarSettings(admin_url=local_broker.admin_url)
    async with PulsarAdmin(settings, deadline_s=0.5) as admin:
        with pytest.raises(BrokerUnavailable, match="Namespace not found"):
            await ensure_topic(admin, "public/nowhere/events")


# --- without a broker: what a real one does only on bad days ------------------------------------


class Front:
    """An HTTP server that answers as its script says."""

    def __init__(self) -> None:
        self.answers: list[web.Response] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        seen = request.method, str(request.rel_url), request.headers.get("authorization")
        self.requests.append(seen)
        return self.answers.pop(0)


@pytest.fixture
async def make_front() -> AsyncIterator[Callable[[], Awaitable[Front]]]:
    runners: list[web.AppRunner] = []

    async def make() -> Front:
        front = Front()
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", front.handle)
        runner = web.AppRunner(application)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        front.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return front

    yield make
    for runner in runners:
        await runner.cleanup()


async def test_the_owner_of_a_topic_is_followed_with_the_token(
    make_front: Callable[[], Awaitable[Front]],
) -> None:
    first, owner = await make_front(), await make_front()
    location = f"{owner.url}/admin/v2/persistent/public/default/t%3D1/subscriptions?authoritative=1"
    first.answers = [web.Response(status=307, headers={"Location": location})]
    owner.answers = [web.json_response(["crm"])]
    settings = PulsarSettings.model_validate({"admin_url": first.url, "token": "hunter2"})

    async with PulsarAdmin(settings) as admin:
        assert await admin.subscriptions("t=1") == ["crm"]

    assert owner.requests[0][0] == "GET"
    assert owner.requests[0][2] == "Bearer hunter2"
    assert owner.requests[0][1].endswith("subscriptions?authoritative=1")


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_broker_that_is_not_ready_is_asked_again(
    make_front: Callable[[], Awaitable[Front]], status: int
) -> None:
    front = await make_front()
    front.answers = [
        web.json_response({"reason": "starting"}, status=status),
        web.json_response({"reason": "Namespace not found"}, status=404),
        web.json_response({"partitions": 3}),
    ]

    async with PulsarAdmin(PulsarSettings(admin_url=front.url)) as admin:
        assert await admin.partitions("events") == 3


async def test_redirects_in_a_circle_end(make_front: Callable[[], Awaitable[Front]]) -> None:
    front = await make_front()
    front.answers = [web.Response(status=307, headers={"Location": "/x"}) for _ in range(1_000)]

    async with PulsarAdmin(PulsarSettings(admin_url=front.url), deadline_s=0.2) as admin:
        with pytest.raises(BrokerUnavailable, match="redirected more than 5 times"):
            await admin.wait_until_healthy()


@pytest.mark.parametrize(
    ("status", "reason", "advice"),
    [
        (401, "Authentication required", "KEYLANE_PULSAR__TOKEN"),
        (405, "Topic level policies is disabled", "topicLevelPoliciesEnabled=true"),
        (412, "Retention too small", "Retention too small"),
    ],
)
async def test_a_refusal_says_what_to_do(
    make_front: Callable[[], Awaitable[Front]], status: int, reason: str, advice: str
) -> None:
    front = await make_front()
    front.answers = [web.json_response({"reason": reason}, status=status)]

    async with PulsarAdmin(PulsarSettings(admin_url=front.url)) as admin:
        with pytest.raises(BrokerError, match=advice):
            await admin.set_policy("events", "retention", {})


async def test_a_broker_that_is_not_there_is_told_without_its_password() -> None:
    settings = PulsarSettings(admin_url="http://me:hunter2@127.0.0.1:1")

    async with PulsarAdmin(settings, deadline_s=0.1) as admin:
        with pytest.raises(BrokerUnavailable) as caught:
            await admin.wait_until_healthy()

    assert "http://me:***@127.0.0.1:1" in str(caught.value)
    assert "KEYLANE_PULSAR__ADMIN_URL" in str(caught.value)
