"""Checks of a topic: partitions, and the policies that hold for it whoever set them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from keylane.counted import counted
from keylane.topics import (
    DEFAULT_PARTITIONS,
)
from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.mending import Commands, TopicMending
from operate.doctor.quotachecks import quota_findings, retention_words
from operate.doctor.seen import Seen, TopicSeen

#: What is read of a topic beside the policies that setting up takes care of.
ACK_PAUSE: Final = "dispatcherPauseOnAckStatePersistent"
_LIMITS: Final = ("maxUnackedMessagesOnConsumer", "maxUnackedMessagesOnSubscription")
_PREFIX: Final = len("maxUnackedMessagesOn")
_MB: Final = 1024**2


def topic_findings(seen: Seen, commands: Commands) -> Iterator[Finding]:
    """Of the main topic; without one there is nothing else to check."""
    topic = seen.topic
    if topic is None:
        if not seen.is_topic_known or not seen.broker.is_namespace_there:
            return
        yield error(
            "topic.missing",
            seen.full_name,
            "there is no such topic",
            "Nothing can be published, and a producer that creates it makes one without the "
            "partitions and policies that are needed.",
            Mend(command=commands.setup(*seen.asked, partitions=seen.asked_partitions)),
        )
        return
    yield from _partitions(seen, topic, commands)
    yield from _missing_parts(topic, commands)
    yield from policy_findings(topic, commands, commands.setup())


def policy_findings(
    topic: TopicSeen,
    commands: Commands,
    setup: str,
    *,
    is_delivered: bool = True,
    drain: str | None = None,
) -> Iterator[Finding]:
    """`setup` is the command that sets what the topic lacks itself.

    `is_delivered` is whether workers get the topic's events, so that its limits matter; `drain` is
    the command that lessens its backlog, if more workers do not.
    """
    if not topic.applied:
        return  # may not be looked at, which is a finding of its own
    mending = TopicMending(topic, commands, setup)
    if is_delivered:
        yield _unacknowledged(topic, mending)
        yield _retention(topic, mending)
        yield from _ack_pause(topic, mending)
    yield from quota_findings(topic, mending, drain)
    yield _time_to_live(topic, mending)
    yield _inactivity(topic, mending)


def _partitions(seen: Seen, topic: TopicSeen, commands: Commands) -> Iterator[Finding]:
    check, asked = "topic.partitions", seen.asked_partitions
    found = counted(topic.partitions, "partition")
    if topic.partitions == 0:
        yield _unpartitioned(seen, topic, commands)
    elif asked is not None and topic.partitions < asked:
        yield error(
            check,
            topic.name,
            f"{found} instead of {asked}",
            "Fewer brokers share the load than planned. Growing moves users between partitions: "
            "what they have undelivered then may be overtaken by newer events.",
            Mend(command=commands.setup(partitions=asked)),
        )
    elif asked is not None and topic.partitions > asked:
        yield warning(
            check,
            topic.name,
            f"{found} instead of {asked}",
            "A topic can't shrink.",
            Mend(
                command=commands.keylane("doctor", "--partitions", str(topic.partitions)),
                advice="Plan with what there is, or take another topic.",
            ),
        )
    else:
        yield well(check, topic.name, found)


def _unpartitioned(seen: Seen, topic: TopicSeen, commands: Commands) -> Finding:
    stats = next(iter(topic.parts.values()), None)
    names = [destination.name for destination in seen.destinations]
    partitions = seen.asked_partitions or DEFAULT_PARTITIONS
    setup = commands.setup(*names, partitions=partitions)
    consequence = "Workers can't share it out: neither ingest nor dispatch starts."
    if stats is not None and not stats.get("storageSize") and not stats.get("publishers"):
        delete = commands.pulsar_admin("topics", "delete", "--force", topic.name)
        mend = Mend(command=f"{delete} && {setup}", advice="It is empty, so it can be made anew.")
    else:
        other = Commands(f"{topic.name}-partitioned", commands.admin_url, commands.config)
        mend = Mend(
            command=other.setup(*names, partitions=partitions),
            advice="It holds messages, so it stays; set KEYLANE_TOPIC to the new one.",
        )
    return error("topic.partitions", topic.name, "it has no partitions", consequence, mend)


def _missing_parts(topic: TopicSeen, commands: Commands) -> Iterator[Finding]:
    missing = [part for part, stats in topic.parts.items() if stats is None]
    if missing:
        yield error(
            "topic.parts",
            topic.name,
            f"{len(missing)} of {counted(topic.partitions, 'partition')} missing: "
            f"{', '.join(missing)}",
            "Users of these partitions get nothing, and publishing for them fails.",
            Mend(command=commands.pulsar_admin("topics", "create-missed-partitions", topic.name)),
        )


def _unacknowledged(topic: TopicSeen, mending: TopicMending) -> Finding:
    check = "topic.unacknowledged"
    limits = {name: int(topic.applied.get(name) or 0) for name in _LIMITS}
    low = {name: limit for name, limit in limits.items() if limit > 0}
    if not low:
        return well(check, topic.name, "no limit of unacknowledged messages")
    return error(
        check,
        topic.name,
        " and ".join(
            f"at most {limit:,} a {name[_PREFIX:].lower()}" for name, limit in low.items()
        ),
        "All events of a stuck user are unacknowledged: at the limit everybody else stops too.",
        Mend(command=mending.setup),
    )


def _retention(topic: TopicSeen, mending: TopicMending) -> Finding:
    check, policy = "topic.retention", topic.applied.get("retention") or {}
    minutes = policy.get("retentionTimeInMinutes", 0)
    megabytes = policy.get("retentionSizeInMB", 0)
    by_hand = ("topics", "set-retention", *retention_words(topic))
    if minutes and megabytes:
        return well(check, topic.name, f"{_minutes(minutes)}, {_megabytes(megabytes)}")
    return warning(
        check,
        topic.name,
        "retention 0: delivered events are deleted at once",
        "Nothing can be replayed, and a new destination begins with nothing. Before the first "
        "destination has its subscription events are lost.",
        mending.of("retention", *by_hand),
    )


def _time_to_live(topic: TopicSeen, mending: TopicMending) -> Finding:
    check, seconds = "topic.time_to_live", topic.applied.get("messageTTL") or 0
    if not seconds:
        return well(check, topic.name, "none")
    return error(
        check,
        topic.name,
        f"{seconds:,} s",
        "What is undelivered after that time is acknowledged unseen: lost without a word.",
        mending.of("messageTTL", "topics", "remove-message-ttl"),
    )


def _inactivity(topic: TopicSeen, mending: TopicMending) -> Finding:
    check = "topic.inactivity"
    policy = topic.applied.get("inactiveTopicPolicies") or {}
    if not policy.get("deleteWhileInactive"):
        return well(check, topic.name, "it stays while nobody is connected")
    mode = str(policy.get("inactiveTopicDeleteMode"))
    after = f"deleted when inactive for {policy.get('maxInactiveDurationSeconds')} s ({mode})"
    words = ("--disable-delete-while-inactive", "--delete-mode", mode)
    duration = ("--max-inactive-duration", "60s")
    mend = mending.of(
        "inactiveTopicPolicies", "topics", "set-inactive-topic-policies", *words, *duration
    )
    if mode == "delete_when_subscriptions_caught_up":
        consequence = "When all is delivered it goes, with its subscriptions and what it retains."
        return error(check, topic.name, after, consequence, mend)
    consequence = "Without a subscription it goes, with all that it retains."
    return warning(check, topic.name, after, consequence, mend)


def _ack_pause(topic: TopicSeen, mending: TopicMending) -> Iterator[Finding]:
    # Where the topic has it from the broker that is told of the broker.
    if topic.own.get(ACK_PAUSE):
        remove = "remove-dispatcher-pause-on-ack-state-persistent"
        yield warning(
            "topic.ack_pause",
            topic.name,
            f"{ACK_PAUSE} is set",
            "A subscription stops for all users while acknowledgements above a stuck user's event "
            "are more than can be stored.",
            Mend(command=mending.by_hand("topicPolicies", remove)),
        )


def _minutes(minutes: int) -> str:
    return "for ever" if minutes < 0 else f"{minutes / 60:,.4g} h"


def _megabytes(megabytes: int) -> str:
    return "any size" if megabytes < 0 else f"{megabytes:,} MiB a partition"
