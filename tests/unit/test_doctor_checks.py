"""What the doctor finds, without a broker: values in, findings out."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keylane.names import full_topic, partition_topic
from keylane.routing import partition_of
from keylane.settings import PulsarSettings, Settings
from keylane.topics import BACKLOG_BYTES, POLICIES
from operate.broker.config import ACKNOWLEDGED_RANGES_KEPT
from operate.doctor.canary import abandoned, canary_topic
from operate.doctor.examining import examine
from operate.doctor.findings import (
    Finding,
    Mend,
    Severity,
    error,
    exit_code,
    warning,
    well,
    worst_first,
)
from operate.doctor.looking import clock
from operate.doctor.mending import UNKNOWN_ROLE, Commands, role_of
from operate.doctor.sampling import start_of_last
from operate.doctor.seen import (
    AccessSeen,
    BrokerSeen,
    CanarySeen,
    ClockSeen,
    DestinationSeen,
    Found,
    Sampled,
    Seen,
    TopicSeen,
)
from operate.doctor.shown import as_json, show
from tests.commandline import parse

NOW_MS = 1_800_000_000_000
GIB = 1024**3
CONFIGURATION = {
    "topicLevelPoliciesEnabled": "true",
    "systemTopicEnabled": "true",
    "subscriptionKeySharedEnable": "true",
    "subscriptionKeySharedUseClassicPersistentImplementation": "false",
    "enableNonPersistentTopics": "true",
    "maxUnackedMessagesPerBroker": "0",
    "dispatcherPauseOnAckStatePersistentEnabled": "false",
    "managedLedgerPersistIndividualAckAsLongArray": "false",
    "managedLedgerMaxUnackedRangesToPersist": str(ACKNOWLEDGED_RANGES_KEPT),
    "subscriptionKeySharedConsistentHashingReplicaPoints": "1000",
    "dispatcherReadFailureBackoffInitialTimeInMs": "1000",
    "keepAliveIntervalSeconds": "30",
}
BROKER = BrokerSeen("4.0.13", ClockSeen(-0.5, 0.6), CONFIGURATION)
#: What setting up gives a topic.
POLICIES_SET: Found = {
    "backlogQuotaMap": {
        "destination_storage": {
            "limitSize": BACKLOG_BYTES,
            "limitTime": -1,
            "policy": "producer_exception",
        },
        "message_age": {"limitSize": -1, "limitTime": -1, "policy": "producer_exception"},
    },
    "retention": {"retentionTimeInMinutes": 4320, "retentionSizeInMB": 16384},
    "messageTTL": 0,
    "inactiveTopicPolicies": {
        "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
        "maxInactiveDurationSeconds": 60,
        "deleteWhileInactive": False,
    },
    "maxUnackedMessagesOnConsumer": 0,
    "maxUnackedMessagesOnSubscription": 0,
    "dispatcherPauseOnAckStatePersistent": False,
}
USED: dict[str, Any] = {"type": "Key_Shared", "isDurable": True, "msgBacklog": 3, "consumers": [{}]}


def topic_of(
    name: str,
    partitions: int = 3,
    subscriptions: Mapping[str, Found] | None = None,
    *,
    own: Found = POLICIES_SET,
    applied: Found | None = None,
    **stats: Any,
) -> TopicSeen:
    numbers = range(partitions)
    parts = [partition_topic(name, number) for number in numbers] or [full_topic(name)]
    one = {"subscriptions": subscriptions or {}, "backlogSize": 0, "msgThroughputIn": 0.0} | stats
    policies = {**POLICIES_SET, **own} if applied is None else {**POLICIES_SET, **applied}
    return TopicSeen(full_topic(name), partitions, own, policies, dict.fromkeys(parts, one))


DEAD = topic_of("events-crm-DLQ", 0, {"keylane": {"msgBacklog": 0, "isDurable": True}})
AGAIN = topic_of("events-crm-redrive", 0, {"crm": USED}, deduplicationStatus="Enabled")
CRM = DestinationSeen("crm", DEAD, AGAIN)
WELL = Seen(
    BROKER,
    "events",
    NOW_MS,
    topic=topic_of("events", 3, {"crm": USED}),
    destinations=[CRM],
    access=AccessSeen(),
    canary=CanarySeen("events-canary", {"created": 30.0}),
)
SETTINGS = Settings(topic="events")


def bad(seen: Seen, role: str = "keylane") -> dict[str, Finding]:
    found = examine(seen, SETTINGS, role=role)
    return {one.check: one for one in found if one.severity is not Severity.OK}


def only(seen: Seen) -> Finding:
    (one,) = bad(seen).values()
    return one


def with_topic(topic: TopicSeen) -> Seen:
    return replace(WELL, topic=topic)


def with_policy(own: Mapping[str, Any] | None = None, **applied: Any) -> Seen:
    """Policies that the topic inherits, and does not have itself; or that are its `own`."""
    kept = {k: v for k, v in POLICIES_SET.items() if k not in applied}
    topic = topic_of("events", 3, {"crm": USED}, own={**kept, **(own or {})}, applied=applied)
    return with_topic(topic)


def test_what_is_set_up_is_well_and_every_look_is_told() -> None:
    found = examine(WELL, SETTINGS)

    assert {one.severity for one in found} == {Severity.OK}
    assert len({(one.check, one.subject) for one in found}) == len(found)
    assert {"canary", "broker.version", "dead_letters.subscription"} <= {o.check for o in found}


def test_every_policy_that_setting_up_takes_care_of_is_looked_at() -> None:
    assert {policy.read for policy in POLICIES} <= POLICIES_SET.keys()


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ("2.11.4", Severity.ERROR),
        ("3.3.9", Severity.ERROR),
        ("4.0.8", Severity.WARNING),
        ("4.0.12", Severity.WARNING),
        ("4.0.13", Severity.OK),
        ("4.2.0", Severity.OK),
        ("unknown", Severity.WARNING),
    ],
)
def test_a_release_is_judged_by_the_faults_that_are_known(version: str, severity: Severity) -> None:
    found = examine(replace(WELL, broker=replace(BROKER, version=version)), SETTINGS)

    (one,) = [one for one in found if one.check == "broker.version"]
    assert one.severity is severity
    assert version in one.found


@pytest.mark.parametrize(
    ("name", "value", "check", "severity"),
    [
        ("topicLevelPoliciesEnabled", "false", "broker.topic_policies", Severity.ERROR),
        ("systemTopicEnabled", "false", "broker.system_topics", Severity.ERROR),
        ("subscriptionKeySharedEnable", "false", "broker.key_shared", Severity.ERROR),
        ("enableNonPersistentTopics", "false", "broker.non_persistent", Severity.ERROR),
        ("maxUnackedMessagesPerBroker", "1000000", "broker.unacknowledged", Severity.ERROR),
        (
            "managedLedgerPersistIndividualAckAsLongArray",
            "true",
            "broker.ack_format",
            Severity.WARNING,
        ),
        ("managedLedgerMaxUnackedRangesToPersist", "10000", "broker.ack_ranges", Severity.WARNING),
        (
            "subscriptionKeySharedConsistentHashingReplicaPoints",
            "100",
            "broker.ring_points",
            Severity.WARNING,
        ),
        (
            "dispatcherReadFailureBackoffInitialTimeInMs",
            "15000",
            "broker.read_again",
            Severity.WARNING,
        ),
        ("keepAliveIntervalSeconds", "6", "broker.keep_alive", Severity.ERROR),
    ],
)
def test_a_setting_of_the_broker_is_told_as_it_has_to_stand_in_its_file(
    name: str, value: str, check: str, severity: Severity
) -> None:
    broker = replace(BROKER, configuration=CONFIGURATION | {name: value})

    one = only(replace(WELL, broker=broker))

    assert (one.check, one.severity) == (check, severity)
    assert f"{name}={value}" in one.found
    assert one.mend.command is None
    assert one.mend.setting == f"{name}={CONFIGURATION[name]}"


def test_a_setting_that_changes_without_a_restart_is_mended_by_a_command() -> None:
    name = "subscriptionKeySharedUseClassicPersistentImplementation"
    configuration = CONFIGURATION | {name: "true"}
    broker = replace(BROKER, configuration=configuration, dynamic=frozenset({name}))

    one = only(replace(WELL, broker=broker))

    assert one.mend.command == (
        "pulsar-admin --admin-url http://localhost:8080 brokers update-dynamic-config "
        f"--config {name} --value false"
    )


def test_a_broker_that_hides_its_configuration_is_told_and_nothing_is_made_up() -> None:
    assert only(replace(WELL, broker=replace(BROKER, configuration=None))).check == (
        "broker.configuration"
    )


@pytest.mark.parametrize(
    ("at_least_s", "severity", "said"),
    [
        (-1.0, Severity.OK, ""),
        (4.0, Severity.OK, ""),
        (20.0, Severity.WARNING, "20 s ahead of"),
        (-22.0, Severity.WARNING, "20 s behind"),
        (600.0, Severity.ERROR, "600 s ahead of"),
    ],
)
def test_a_clock_is_off_by_what_the_question_cannot_explain(
    at_least_s: float, severity: Severity, said: str
) -> None:
    broker = replace(BROKER, clock=ClockSeen(at_least_s, at_least_s + 2))

    (one,) = [
        one
        for one in examine(replace(WELL, broker=broker), SETTINGS)
        if one.check == "broker.clock"
    ]

    assert one.severity is severity
    assert said in one.found


def test_a_date_header_tells_whole_seconds_only() -> None:
    seen = clock("Sat, 21 Nov 2026 19:00:00 GMT", 1_795_287_600.2, 1_795_287_601.5)

    assert seen is not None
    assert (seen.at_least_s, round(seen.at_most_s, 3)) == (-1.5, 0.8)
    assert seen.skew_s == 0
    assert clock("", 0.0, 1.0) is None


def test_a_topic_that_is_missing_is_made_with_what_was_asked_for() -> None:
    seen = replace(WELL, topic=None, destinations=[], asked=["crm", "audit"], asked_partitions=6)

    assert only(seen).mend.command == (
        "keylane topic setup --partitions 6 --destination crm --destination audit --topic events"
    )


def test_nothing_is_said_of_a_topic_that_may_not_be_looked_at() -> None:
    broker = replace(BROKER, denied=["partitions"])
    seen = replace(WELL, broker=broker, topic=None, destinations=[], is_topic_known=False)

    assert only(seen).check == "permission.administer"


def test_fewer_partitions_than_asked_for_are_added_and_more_can_only_be_told() -> None:
    few, many = replace(WELL, asked_partitions=6), replace(WELL, asked_partitions=2)

    assert only(few).mend.command == "keylane topic setup --partitions 6 --topic events"
    assert only(few).severity is Severity.ERROR
    assert only(many).severity is Severity.WARNING
    assert bad(replace(WELL, asked_partitions=3)) == {}


def test_a_topic_without_partitions_is_deleted_only_while_it_is_empty() -> None:
    empty = topic_of("events", 0, storageSize=0)
    used = topic_of("events", 0, storageSize=1)

    fresh, kept = only(with_topic(empty)).mend.command, only(with_topic(used)).mend.command

    assert fresh is not None
    assert kept is not None
    assert "topics delete" in fresh
    assert fresh.endswith("&& keylane topic setup --partitions 3 --destination crm --topic events")
    assert "delete" not in kept
    assert "events-partitioned" in kept


def test_a_partition_that_is_missing_is_created() -> None:
    topic = topic_of("events", 3, {"crm": USED})
    parts = {**topic.parts, partition_topic("events", 2): None}

    one = only(with_topic(replace(topic, parts=parts)))

    assert one.check == "topic.parts"
    assert "create-missed-partitions" in str(one.mend.command)


SETUP = "keylane topic setup --topic events"
STORAGE = {"limitSize": GIB * 10, "limitTime": -1}
HOLDING = {"destination_storage": {**STORAGE, "policy": "producer_request_hold"}}
EVICTING = {"destination_storage": {**STORAGE, "policy": "consumer_backlog_eviction"}}
SMALL = {"destination_storage": {"limitSize": 10**6, "policy": "producer_exception"}}
AGE = {"message_age": {"limitTime": 60, "policy": "producer_exception"}}
DELETING = {"inactiveTopicDeleteMode": "delete_when_no_subscriptions", "deleteWhileInactive": True}
CAUGHT_UP = DELETING | {"inactiveTopicDeleteMode": "delete_when_subscriptions_caught_up"}


@pytest.mark.parametrize(
    ("check", "severity", "applied"),
    [
        ("topic.unacknowledged", Severity.ERROR, {"maxUnackedMessagesOnConsumer": 50_000}),
        ("topic.unacknowledged", Severity.ERROR, {"maxUnackedMessagesOnSubscription": 200_000}),
        ("topic.retention", Severity.WARNING, {"retention": None}),
        ("topic.quota", Severity.WARNING, {"backlogQuotaMap": HOLDING}),
        ("topic.quota", Severity.ERROR, {"backlogQuotaMap": EVICTING}),
        ("topic.quota", Severity.WARNING, {"backlogQuotaMap": SMALL}),
        ("topic.age_quota", Severity.WARNING, {"backlogQuotaMap": AGE}),
        ("topic.time_to_live", Severity.ERROR, {"messageTTL": 3600}),
        ("topic.inactivity", Severity.WARNING, {"inactiveTopicPolicies": DELETING}),
        ("topic.inactivity", Severity.ERROR, {"inactiveTopicPolicies": CAUGHT_UP}),
    ],
)
def test_what_a_topic_inherits_is_mended_by_setting_it_up(
    check: str, severity: Severity, applied: dict[str, Any]
) -> None:
    one = only(with_policy(**applied))

    assert (one.check, one.severity, one.mend.command) == (check, severity, SETUP)
    assert one.consequence


@pytest.mark.parametrize(
    ("check", "own", "words"),
    [
        (
            "topic.retention",
            {"retention": {"retentionTimeInMinutes": 0, "retentionSizeInMB": 0}},
            "topics set-retention --time 4320m --size 16384M",
        ),
        (
            "topic.quota",
            {"backlogQuotaMap": SMALL},
            "topics set-backlog-quota --limit 10G --policy producer_exception",
        ),
    ],
)
def test_a_figure_of_the_operators_own_is_mended_by_pulsars_tool(
    check: str, own: dict[str, Any], words: str
) -> None:
    one = only(with_policy(own=own, **own))

    assert one.check == check
    assert one.mend.command == (
        f"pulsar-admin --admin-url http://localhost:8080 {words} persistent://public/default/events"
    )


def test_a_quota_is_raised_behind_a_retention_that_it_may_not_exceed() -> None:
    retention = {"retentionTimeInMinutes": 60, "retentionSizeInMB": 512}
    own = {"backlogQuotaMap": SMALL, "retention": retention}

    first, _, second = str(only(with_policy(own=own, **own)).mend.command).partition(" && ")

    assert "set-retention" in first
    assert "set-backlog-quota" in second


def test_an_own_age_quota_is_removed_before_setting_up_sets_another() -> None:
    own = {"backlogQuotaMap": AGE}

    command = str(only(with_policy(own=own, **own)).mend.command)

    assert "remove-backlog-quota --type message_age" in command
    assert command.endswith(f" && {SETUP}")


def test_a_quota_is_small_by_what_comes_in_during_an_hour() -> None:
    quota = {"destination_storage": {"limitSize": 5 * GIB, "policy": "producer_exception"}}
    slow = topic_of("events", 3, {"crm": USED}, applied={"backlogQuotaMap": quota})
    fast = topic_of(
        "events", 3, {"crm": USED}, applied={"backlogQuotaMap": quota}, msgThroughputIn=2e6
    )

    assert bad(with_topic(slow)) == {}
    assert only(with_topic(fast)).check == "topic.quota"


@pytest.mark.parametrize(
    ("share", "severity"), [(0.4, Severity.OK), (0.6, Severity.WARNING), (0.95, Severity.ERROR)]
)
def test_a_backlog_is_told_by_its_share_of_the_quota(share: float, severity: Severity) -> None:
    size = int(BACKLOG_BYTES * share)
    found = examine(with_topic(topic_of("events", 3, {"crm": USED}, backlogSize=size)), SETTINGS)

    (one,) = [o for o in found if o.check == "topic.backlog" and "partition-0" in o.subject]
    assert one.severity is severity
    assert severity is Severity.OK or "crm has most undelivered" in one.consequence


def test_a_subscription_that_some_partitions_lack_is_made() -> None:
    topic = topic_of("events", 3, {"crm": USED})
    lacking = {"subscriptions": {}, "backlogSize": 0}
    parts = {**topic.parts, partition_topic("events", 1): lacking}

    one = only(with_topic(replace(topic, parts=parts)))

    assert (one.check, one.severity) == ("subscription.missing", Severity.ERROR)
    assert "events-partition-1" in one.found
    assert one.mend.command == "keylane topic setup --destination crm --topic events"


STOPPED = USED | {"blockedSubscriptionOnUnackedMsgs": True}
EXCLUSIVE = USED | {
    "type": "Exclusive",
    "consumers": [{"consumerName": "report", "address": "/10.0.0.7:5555"}],
}


@pytest.mark.parametrize(
    ("check", "severity", "subscription", "mend"),
    [
        ("subscription.type", Severity.ERROR, EXCLUSIVE, "report at /10.0.0.7:5555"),
        (
            "subscription.type",
            Severity.ERROR,
            USED | {"allowOutOfOrderDelivery": True},
            "allowOutOfOrderDelivery",
        ),
        ("subscription.blocked", Severity.ERROR, STOPPED, "topics unload"),
        (
            "subscription.workers",
            Severity.WARNING,
            USED | {"consumers": [], "type": "None"},
            "keylane dispatch crm --topic events",
        ),
        (
            "subscription.ack_ranges",
            Severity.WARNING,
            USED | {"nonContiguousDeletedMessagesRanges": 300_000},
            "managedLedgerMaxUnackedRangesToPersist=600000",
        ),
    ],
)
def test_a_subscription_is_judged_by_its_statistics(
    check: str, severity: Severity, subscription: Found, mend: str
) -> None:
    one = only(with_topic(topic_of("events", 3, {"crm": subscription})))

    assert (one.check, one.severity) == (check, severity)
    assert mend in f"{one.mend}"


def test_a_destination_without_worker_and_without_backlog_is_well() -> None:
    idle = USED | {"consumers": [], "type": "None", "msgBacklog": 0}

    assert bad(with_topic(topic_of("events", 3, {"crm": idle}))) == {}


def dead(subscriptions: Mapping[str, Found], **applied: Any) -> DestinationSeen:
    name = "events-crm-DLQ"
    kept = {k: v for k, v in POLICIES_SET.items() if k not in applied}
    return replace(CRM, dead=topic_of(name, 0, subscriptions, own=kept, applied=applied))


@pytest.mark.parametrize(
    ("destination", "check", "severity", "command"),
    [
        (
            replace(CRM, dead=None),
            "dead_letters.topic",
            Severity.ERROR,
            "keylane topic setup --destination crm --topic events",
        ),
        (
            dead({}),
            "dead_letters.subscription",
            Severity.ERROR,
            "keylane topic setup --destination crm --topic events",
        ),
        (
            dead({"keylane": {"msgBacklog": 7}}),
            "dead_letters.backlog",
            Severity.WARNING,
            "keylane dlq list crm --topic events",
        ),
        (
            dead({"keylane": {"msgBacklog": 0}}, messageTTL=60),
            "topic.time_to_live",
            Severity.ERROR,
            "keylane topic setup --destination crm --topic events",
        ),
    ],
)
def test_dead_letters_have_to_be_kept(
    destination: DestinationSeen, check: str, severity: Severity, command: str
) -> None:
    one = only(replace(WELL, destinations=[destination]))

    assert (one.check, one.severity, one.mend.command) == (check, severity, command)


def test_a_redrive_topic_needs_its_subscription_and_deduplication() -> None:
    again = topic_of("events-crm-redrive", 0, {}, deduplicationStatus="Disabled")

    found = bad(replace(WELL, destinations=[replace(CRM, again=again)]))

    assert found.keys() == {"redrive.subscription", "redrive.deduplication"}
    for one in found.values():
        assert one.mend.command == "keylane topic setup --destination crm --topic events"
    assert bad(replace(WELL, destinations=[replace(CRM, again=None)])) == {}


def test_a_subscription_that_nobody_reads_is_told_as_it_fills_the_quota() -> None:
    forgotten = {"type": "None", "isDurable": True, "msgBacklog": 9, "consumers": []}
    topic = topic_of("events", 3, {"crm": USED, "report": forgotten})

    one = only(replace(WELL, topic=topic, others=["report"]))

    assert (one.check, one.severity) == ("subscription.other", Severity.WARNING)
    assert "backlog 27" in one.found
    read = topic_of("events", 3, {"crm": USED, "report": USED})
    assert bad(replace(WELL, topic=read, others=["report"])) == {}


def samples(
    users: Iterable[str], place: Any, *, ahead_s: float = 0, index: int = -1
) -> dict[int, list[Sampled]]:
    found: dict[int, list[Sampled]] = {0: [], 1: [], 2: []}
    for number, user in enumerate(users):
        at = NOW_MS + int(ahead_s * 1000)
        position = (5, number if index < 0 else 1, index if index < 0 else number)
        found[place(user)].append(Sampled(user, position, "billing", at))
    return found


USERS = [f"user-{number}" for number in range(40)]


def right(user: str) -> int:
    return partition_of(user, 3)


def test_keys_that_lie_elsewhere_are_another_hash() -> None:
    astray = samples(USERS, lambda user: (right(user) + 1) % 3)

    one = only(replace(WELL, samples=astray))

    assert (one.check, one.severity) == ("routing.partitions", Severity.ERROR)
    assert "40 of the last 40" in one.found
    assert "billing" in one.found
    assert bad(replace(WELL, samples=samples(USERS, right))) == {}


def test_keys_that_lie_as_before_the_topic_grew_are_no_foreign_hash() -> None:
    grown = samples(USERS, lambda user: partition_of(user, 2))
    few = samples(USERS[:5], lambda user: partition_of(user, 2))

    one = only(replace(WELL, samples=grown))

    assert (one.check, one.severity) == ("routing.partitions", Severity.WARNING)
    assert "as with 2 partitions" in one.consequence
    # Of few users chance can place all so.
    assert only(replace(WELL, samples=few)).severity is Severity.ERROR


def test_messages_without_a_key_and_from_the_future_are_told() -> None:
    keyless = samples(["", ""], lambda _: 0)
    early = samples(USERS, right, ahead_s=90)

    assert only(replace(WELL, samples=keyless)).check == "routing.keys"
    assert only(replace(WELL, samples=early)).check == "routing.clocks"
    assert "90 s in the future" in only(replace(WELL, samples=early)).found
    assert bad(replace(WELL, samples=samples(USERS, right, ahead_s=2))) == {}


def test_a_batch_with_events_of_several_users_is_told() -> None:
    of_one = {0: [u for u in USERS if right(u) == 0]}

    mixed = samples(of_one[0][:2], right, index=0)
    same = samples([of_one[0][0]] * 3, right, index=0)

    assert only(replace(WELL, samples=mixed)).check == "routing.batches"
    assert bad(replace(WELL, samples=same)) == {}


def test_what_we_are_refused_is_granted_to_the_role_that_the_token_names() -> None:
    refused = AccessSeen(produce="not authorized (producer)", consume="Not authorized")
    broker = replace(BROKER, denied=["stats", "retention"])

    found = bad(replace(WELL, broker=broker, access=refused), role="ingest app")

    grant = "namespaces grant-permission --role 'ingest app' --actions produce,consume"
    assert grant in str(found["permission.produce"].mend.command)
    assert found["permission.consume"].mend == found["permission.produce"].mend
    assert "stats, retention" in found["permission.administer"].found


def test_an_administrator_is_added_to_those_that_are_there(tmp_path: Path) -> None:
    tool = tmp_path / "pulsar-admin"
    tool.write_text(
        '#!/bin/sh\nif [ "$4" = get ]; then echo \'{"adminRoles": ["root"]}\'; '
        "else printf '%s|' \"$@\"; fi\n"
    )
    tool.chmod(0o755)
    command = Commands.of(SETTINGS, None).make_administrator('it\'s "me"')

    done = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        text=True,
        timeout=15,
    )

    url = "http://localhost:8080"
    assert done.stdout == (
        f'--admin-url|{url}|tenants|update|public|--admin-roles|it\'s "me",root|'
    )


def test_a_failure_to_connect_is_no_missing_permission() -> None:
    away = AccessSeen(produce="The broker did not answer (ConnectError)")

    one = only(replace(WELL, access=away))

    assert (one.check, one.mend.command) == ("permission.produce", None)
    assert "ConnectError" in one.found


def test_subscriptions_that_expire_lose_events() -> None:
    namespace = {"subscription_expiration_time_minutes": 30}

    one = only(replace(WELL, broker=replace(BROKER, namespace=namespace)))

    assert (one.check, one.severity) == ("namespace.expiration", Severity.ERROR)
    assert str(one.mend.command).endswith(
        "set-subscription-expiration-time --time 0 public/default"
    )


def test_without_its_namespace_only_that_is_told() -> None:
    seen = Seen(replace(BROKER, is_namespace_there=False), "shop/web/events", NOW_MS)
    found = examine(seen, Settings(topic="shop/web/events"))

    told = [one for one in found if one.severity is not Severity.OK]
    assert [one.check for one in told] == ["namespace.missing"]
    assert str(told[0].mend.command).endswith("namespaces create shop/web")


def test_a_canary_that_does_not_get_through_says_how_far_it_came() -> None:
    canary = CanarySeen("events-canary", {"created": 31.0}, "subscribed", "no answer")

    one = only(replace(WELL, canary=canary))

    assert (one.check, one.severity) == ("canary", Severity.ERROR)
    assert one.found == "not subscribed: no answer (before that: created 31 ms)"


def test_the_topic_of_a_canary_is_abandoned_after_a_while() -> None:
    name = canary_topic("events", 1_000_000)
    others = [full_topic("events"), full_topic("events-canary-DLQ"), canary_topic("e", 1_000_000)]

    assert abandoned("events", [name, *others], 1_000_300) == []
    assert abandoned("events", [name, *others], 1_001_000) == [name]
    left = only(replace(WELL, broker=replace(BROKER, leftovers=[name])))
    assert str(left.mend.command).endswith(f"delete-partitioned-topic --force {name}")


def test_what_the_broker_failed_to_answer_is_an_error() -> None:
    one = only(replace(WELL, broker=replace(BROKER, unanswered=["stats of events"])))

    assert (one.check, one.severity) == ("broker.answers", Severity.ERROR)


@pytest.mark.parametrize(
    ("ledgers", "current", "after"),
    [
        ([], 0, None),
        ([(5, 0)], 0, None),
        ([(5, 0)], 3, (5, -1, -1)),
        ([(5, 0)], 30, (5, 19, -1)),
        ([(5, 50), (7, 0)], 4, (5, 43, -1)),
        ([(5, 3), (6, 2), (7, 0)], 4, (5, -1, -1)),
        ([(5, 6), (7, 0)], 4, (5, -1, -1)),
        ([(5, 6), (7, 0)], 10, (7, -1, -1)),
    ],
)
def test_the_last_entries_may_lie_in_several_ledgers(
    ledgers: list[tuple[int, int]], current: int, after: tuple[int, int, int] | None
) -> None:
    internal = {
        "ledgers": [{"ledgerId": number, "entries": entries} for number, entries in ledgers],
        "currentLedgerEntries": current,
    }

    assert start_of_last(internal, 10) == after


_CHECK = re.compile(
    r"(?:namespace|permission|broker|topic|subscription|dead_letters|redrive|routing|canary)"
    r"\.[a-z_]+"
)


def test_every_check_is_documented_and_no_other() -> None:
    root = Path(__file__).parents[2]
    sources = (root / "operate" / "doctor").glob("*checks.py")
    made = {n for path in sources for n in re.findall(rf'"({_CHECK.pattern})"', path.read_text())}
    table = (root / "docs" / "doctor.md").read_text().partition("## The checks")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}

    assert told == made | {"canary"}


def test_the_commands_that_are_printed_are_such_that_keylane_takes() -> None:
    away = USED | {"consumers": [], "type": "None"}
    full = topic_of("events", 3, {"crm": away}, backlogSize=BACKLOG_BYTES)
    dead_full = topic_of("events-crm-DLQ", 0, {"keylane": away}, backlogSize=BACKLOG_BYTES)
    ill = [
        replace(WELL, topic=None, asked=["crm"], asked_partitions=6),
        replace(WELL, asked_partitions=2, topic=full),
        replace(WELL, destinations=[replace(CRM, dead=dead_full)]),
        replace(WELL, broker=replace(BROKER, configuration=None)),
    ]
    printed = {
        words[1]: words
        for seen in ill
        for one in bad(seen).values()
        if (words := shlex.split(one.mend.command or ""))[:1] == ["keylane"]
    }

    assert printed.keys() == {"topic", "doctor", "dispatch", "dlq"}
    for words in printed.values():
        parse(words[1:])


def test_commands_name_the_broker_and_the_file_that_they_are_about() -> None:
    access = PulsarSettings(admin_url="https://pulsar:8443")
    settings = Settings(topic="events", pulsar=access)

    commands = Commands.of(settings, Path("my settings.toml"))

    assert commands.setup("crm") == (
        "keylane topic setup --destination crm --topic events --admin-url https://pulsar:8443 "
        "--config 'my settings.toml'"
    )


def test_our_role_is_the_subject_of_a_token() -> None:
    body = base64.urlsafe_b64encode(json.dumps({"sub": "keylane"}).encode()).decode().rstrip("=")

    assert role_of(f"e30.{body}.signature") == "keylane"
    for other in (None, "", "opaque", "a.b.c", "e30.e30.x"):
        assert role_of(other) == UNKNOWN_ROLE


FINE = well("a", "b", "c")
SO_SO = warning("w", "b", "c", "d", Mend())
ILL = error("e", "b", "c", "d", Mend(command="mend " + "it " * 80, setting="x=1", advice="Now."))


@pytest.mark.parametrize(
    ("findings", "lenient", "strict"),
    [([], 0, 0), ([FINE], 0, 0), ([FINE, SO_SO], 0, 1), ([ILL, SO_SO], 1, 1)],
)
def test_the_exit_code_goes_by_the_worst(
    findings: list[Finding], lenient: int, strict: int
) -> None:
    assert exit_code(findings, is_strict=False) == lenient
    assert exit_code(findings, is_strict=True) == strict


def test_people_see_the_worst_first_and_commands_unbroken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(worst_first([FINE, SO_SO, ILL]))

    printed = capsys.readouterr().out
    assert printed.index("error") < printed.index("warning") < printed.index("ok")
    assert f"\n    {ILL.mend.command}\n" in printed
    assert "\n    x=1\n" in printed
    assert printed.rstrip().endswith("1 error, 1 warning, 1 checks are well.")


def test_programs_get_every_field_of_every_finding() -> None:
    told = as_json("t", [ILL, FINE])

    assert {k: told[k] for k in ("topic", "errors", "warnings")} == {
        "topic": "t",
        "errors": 1,
        "warnings": 0,
    }
    assert told["findings"][1] == {
        "check": "a",
        "severity": "ok",
        "subject": "b",
        "found": "c",
        "consequence": None,
        "command": None,
        "setting": None,
        "advice": None,
    }
