"""What is wrong with a broker is found, and the command that is printed mends it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import uuid
from pathlib import Path

import pulsar
import pytest

from keylane.admin import PulsarAdmin
from keylane.names import dead_letter_topic, full_topic, partition_topic, redrive_topic
from keylane.routing import partition_of
from keylane.settings import PulsarSettings
from keylane.topics import ensure_destination, ensure_topic
from operate.doctor.findings import Severity
from tests import forks
from tests.brokers import BrokerAddress
from tests.doctoring import Lying, Patient, Shell, only
from tests.guarded import ADMIN, access_as, admin_options, start_guarded
from tests.jsonforms import assert_is
from tests.stage import anyio_backend
from tests.tokens import token_for

__all__ = ["anyio_backend"]
pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]


@pytest.fixture
def access(local_broker: BrokerAddress) -> PulsarSettings:
    return PulsarSettings(service_url=local_broker.service_url, admin_url=local_broker.admin_url)


@pytest.fixture
def shell(local_broker: BrokerAddress, tmp_path: Path) -> Shell:
    return Shell.at(tmp_path, local_broker.started)


@pytest.fixture
def topic() -> str:
    return f"doctor-{uuid.uuid4().hex[:12]}"


async def set_up(access: PulsarSettings, topic: str, *destinations: str) -> None:
    async with PulsarAdmin(access) as admin:
        await ensure_topic(admin, topic, 2)
        for name in destinations:
            await ensure_destination(admin, topic, name)


async def test_of_a_topic_that_is_set_up_everything_is_well_and_nothing_is_left_behind(
    access: PulsarSettings, topic: str
) -> None:
    await set_up(access, topic, "crm")
    patient = Patient.on(access, topic, partitions=2)

    assert await patient.bad() == {}
    canary = only(await patient.findings(canary=True), "canary")

    assert canary.severity is Severity.OK
    for step in ("created", "published", "received", "redelivered", "acknowledged"):
        assert step in canary.found
    async with PulsarAdmin(access) as admin:
        names = (await admin.ask("persistent/public/default")).body
    assert [name for name in names if name.startswith(f"{full_topic(topic)}-canary")] == []


async def test_the_command_prints_and_ends_by_what_it_found(
    access: PulsarSettings, topic: str
) -> None:
    await set_up(access, topic, "crm")
    where = ["--topic", topic, "--service-url", access.service_url]

    def run(
        *options: str, admin_url: str = access.admin_url, patience_s: int = 10
    ) -> subprocess.CompletedProcess[str]:
        env = {"KEYLANE_PULSAR__OPERATION_TIMEOUT_S": str(patience_s)}
        words = ("doctor", *where, "--admin-url", admin_url, *options)
        return forks.run(*words, env=env, within_s=60)

    # One after the other: processes that several threads wait for may lose their exit codes.
    well = run("crm", "--json")
    missing = run("crm", "billing", "--no-canary")
    away = run(admin_url="http://127.0.0.1:9", patience_s=1)

    assert well.returncode == 0, well.stderr
    told = assert_is("doctor", well.stdout)
    assert (told["topic"], told["errors"]) == (full_topic(topic), 0)
    checks = [finding["check"] for finding in told["findings"]]
    assert "canary" in checks
    assert checks.count("subscription.missing") == 1
    assert missing.returncode == 1
    assert "canary" not in missing.stdout
    setup = f"keylane topic setup --destination billing --topic {topic}"
    assert f"\n    {setup} --admin-url {access.admin_url}\n" in missing.stdout
    assert away.returncode == 69
    assert away.stderr.startswith("keylane: ")


async def test_a_topic_of_other_hands_without_policies_or_dead_letters_is_found_and_mended(
    access: PulsarSettings, topic: str, shell: Shell
) -> None:
    async with PulsarAdmin(access) as admin:
        await admin.create_partitioned_topic(full_topic(topic), 2)
        await admin.create_topic(dead_letter_topic(topic, "crm"))
        await admin.create_topic(redrive_topic(topic, "crm"))
        await admin.create_subscription(partition_topic(topic, 0), "crm")
    patient = Patient.on(access, topic, partitions=3)

    found = await patient.bad()
    assert {"topic.retention", "topic.partitions", "topic.inactivity"} <= found.keys()
    assert {"subscription.missing", "dead_letters.subscription"} <= found.keys()
    assert {"redrive.subscription", "redrive.deduplication"} <= found.keys()
    assert found["dead_letters.subscription"].severity is Severity.ERROR
    for check in ("topic.partitions", "dead_letters.subscription"):
        await shell.run(found[check])

    assert await patient.bad() == {}
    async with PulsarAdmin(access) as admin:
        assert await admin.partitions(topic) == 3


@pytest.mark.long
async def test_an_operators_own_figures_that_do_harm_are_found_and_mended(
    access: PulsarSettings, topic: str, shell: Shell
) -> None:
    await set_up(access, topic, "crm")
    async with PulsarAdmin(access) as admin:
        quota = {"limitSize": 1_000_000, "limitTime": -1, "policy": "producer_exception"}
        await admin.set_policy(topic, "backlogQuota?backlogQuotaType=destination_storage", quota)
        nothing = {"retentionTimeInMinutes": 0, "retentionSizeInMB": 0}
        await admin.set_policy(topic, "retention", nothing)
        await admin.set_policy(topic, "messageTTL?messageTTL=60", None)
        await admin.set_policy(topic, "maxUnackedMessagesOnSubscription", 1_000)
    patient = Patient.on(access, topic)

    found = await patient.bad()
    wrong = {"topic.quota", "topic.retention", "topic.time_to_live", "topic.unacknowledged"}
    assert found.keys() == wrong
    assert found["topic.quota"].mend.command.startswith("pulsar-admin ")  # type: ignore[union-attr]
    # The first two are not what setting up would change.
    mending = ("topic.quota", "topic.retention", "topic.time_to_live")
    await asyncio.gather(*(shell.run(found[check]) for check in mending))

    assert await patient.bad() == {}


@pytest.mark.long
async def test_a_topic_without_partitions_is_made_anew_while_it_is_empty(
    access: PulsarSettings, topic: str, shell: Shell
) -> None:
    async with PulsarAdmin(access) as admin:
        await admin.create_topic(full_topic(topic))
    patient = Patient.on(access, topic, partitions=2)

    found = await patient.bad()
    await shell.run(found["topic.partitions"])

    assert await patient.bad() == {}


async def test_an_old_release_and_a_clock_that_is_off_are_found(
    access: PulsarSettings, topic: str
) -> None:
    await set_up(access, topic)
    async with Lying(access.admin_url).serving() as lying:
        patient = Patient.on(access.model_copy(update={"admin_url": lying.url}), topic)
        lying.version, lying.ahead_s = "3.0.7", -600.0
        found = await patient.findings()

        version, clock = only(found, "broker.version"), only(found, "broker.clock")
        assert version.severity is clock.severity is Severity.ERROR
        assert "3.0.7" in version.found
        assert re.match(r"(599|600) s behind", clock.found)
        assert clock.mend.command == "timedatectl set-ntp true"
        # The upgrade, and the clock set.
        lying.version, lying.ahead_s = "4.0.13", 0.0
        assert not [one for one in await patient.findings() if one.severity is not Severity.OK]


async def test_producers_that_hash_in_another_way_or_mix_users_in_a_batch_are_found(
    access: PulsarSettings, topic: str
) -> None:
    await set_up(access, topic, "crm")
    users = [f"user-{number}" for number in range(20)]
    mended = f"{topic}-mended"
    await set_up(access, mended)

    def publish() -> None:
        client = pulsar.Client(access.service_url)
        try:
            # As the client has it by default: hashed in a way of its own.
            foreign = client.create_producer(full_topic(topic), producer_name="billing")
            # As the finding says.
            router = lambda message, partitions: partition_of(message.partition_key(), partitions)  # noqa: E731
            right = client.create_producer(full_topic(mended), message_router=router)
            batching = client.create_producer(
                full_topic(mended),
                producer_name="mixer",
                message_router=router,
                batching_enabled=True,
            )
            for user in users:
                foreign.send(b"{}", partition_key=user)
                right.send(b"{}", partition_key=user)
            for user in users:
                batching.send_async(b"{}", lambda *_: None, partition_key=user)
            batching.flush()
        finally:
            client.close()

    await asyncio.to_thread(publish)

    finding = (await Patient.on(access, topic).bad())["routing.partitions"]
    assert finding.severity is Severity.ERROR
    assert "of the last 20 keyed messages" in finding.found
    assert "billing" in finding.found
    assert "partition_of" in str(finding.mend.advice)
    others = await Patient.on(access, mended).bad()
    assert others.keys() == {"routing.batches"}
    assert "mixer" in others["routing.batches"].found


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_limits_ranges_formats_and_permissions_of_a_broker_as_shipped_are_found_and_mended(
    topic: str, tmp_path: Path
) -> None:
    """All in one, as two starts of a broker are most of it."""
    data = tmp_path / "data"
    broker = await asyncio.to_thread(start_guarded, data, {})
    try:
        as_admin = access_as(broker, ADMIN)
        shell = Shell.at(tmp_path, broker, *admin_options())
        shell.env["KEYLANE_PULSAR__TOKEN"] = token_for(ADMIN)
        async with PulsarAdmin(as_admin) as admin:
            await admin.create_partitioned_topic(full_topic(topic), 2)
        settings = await the_limits_are_mended(Patient.on(as_admin, topic), shell)
        await permissions_are_mended(Patient.on(access_as(broker, "keylane"), topic), shell)
    finally:
        await asyncio.to_thread(broker.stop)

    # As it is put into broker.conf, and the broker restarted.
    broker = await asyncio.to_thread(start_guarded, data, settings)
    try:
        patient = Patient.on(access_as(broker, ADMIN), topic)
        assert await patient.bad() == {}
    finally:
        await asyncio.to_thread(broker.stop)


async def the_limits_are_mended(patient: Patient, shell: Shell) -> dict[str, str]:
    """Returns the broker's settings that are to be changed."""
    found = await patient.bad()
    limit = found["topic.unacknowledged"]
    assert limit.severity is Severity.ERROR
    assert limit.found == "at most 50,000 a consumer and at most 200,000 a subscription"

    await shell.run(limit)

    left = await patient.bad()
    assert left.keys() == {"broker.ack_format", "broker.ack_ranges"}
    told = [str(one.mend.setting).partition("=") for one in left.values()]
    return {name: value for name, _, value in told}


async def permissions_are_mended(patient: Patient, shell: Shell) -> None:
    found = await patient.bad()
    refused = {"permission.administer", "permission.produce", "permission.consume"}
    assert refused <= found.keys()
    for check in refused:
        assert found[check].severity is Severity.ERROR
        assert "keylane may not" in found[check].found

    # Publishing and reading are one permission.
    await shell.run(found["permission.produce"])
    assert (await patient.bad()).keys() & refused == {"permission.administer"}
    await shell.run(found["permission.administer"])

    # Only a superuser sees the broker's own settings.
    assert (await patient.bad()).keys() == {"broker.configuration"}
