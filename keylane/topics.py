"""Topics, subscriptions and the policies without which the promises do not hold.

Pulsar's own defaults stop a whole subscription at 50,000 unacknowledged messages, delete a topic
that nobody is connected to, and may drop what is too old or too much. Everything here can be
repeated: what is in place stays, and each function returns in sentences what it changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_fixed

from keylane.admin import PulsarAdmin
from keylane.counted import counted
from keylane.errors import BrokerUnavailable, ConfigurationError
from keylane.moment import EARLIEST
from keylane.names import (
    DEAD_LETTER_SUBSCRIPTION,
    dead_letter_topic,
    full_topic,
    partition_topic,
    redrive_topic,
    subscription_name,
)

log = structlog.get_logger()

DEFAULT_PARTITIONS: Final = 3
#: Policies reach a topic through a log of their own; on a loaded machine that takes seconds.
IN_FORCE_WITHIN_S: Final = 30.0
#: Undelivered events of the slowest destination, a partition. Then events are refused.
BACKLOG_BYTES: Final = 10 * 1024**3
#: Delivered events are kept so that a destination can be added or rewound: as long as an event may
#: be retried by default. The size has to exceed the backlog's.
RETENTION_MINUTES: Final = 3 * 24 * 60
RETENTION_MB: Final = 16 * 1024
_DEDUPLICATION: Final = "deduplicationEnabled"


def _is_set(found: Any) -> bool:
    return found is not None


def _keeps_all(found: Any) -> bool:
    return found is not None and found["policy"] != "consumer_backlog_eviction"


@dataclass(frozen=True, slots=True)
class _Policy:
    """What is set, unless what is found suffices: an operator's own figures stay.

    `write` and `read` are the calls' names, `part` the member of what is read that counts.
    """

    write: str
    read: str
    value: Any
    part: str | None = None
    suffices: Callable[[Any], bool] | None = None

    def is_in_place(self, found: Any) -> bool:
        if self.part is not None:
            found = (found or {}).get(self.part)
        if self.suffices is not None:
            return self.suffices(found)
        if isinstance(self.value, Mapping) and isinstance(found, Mapping):
            return all(found.get(name) == value for name, value in self.value.items())
        return bool(found == self.value)


#: What every topic of ours needs, in the order in which it has to be set.
POLICIES: Final = (
    # A full backlog refuses new events at once and loses none: `producer_request_hold` would let
    # requests hang until they time out as unknown, `consumer_backlog_eviction` drops the oldest.
    # First, because a retention that does not exceed the quota in force is refused.
    _Policy(
        "backlogQuota?backlogQuotaType=destination_storage",
        "backlogQuotaMap",
        {"limitSize": BACKLOG_BYTES, "limitTime": -1, "policy": "producer_exception"},
        part="destination_storage",
        suffices=_keeps_all,
    ),
    # Age alone is no reason to refuse or drop anything; the namespace may see it otherwise.
    _Policy(
        "backlogQuota?backlogQuotaType=message_age",
        "backlogQuotaMap",
        {"limitSize": -1, "limitTime": -1, "policy": "producer_exception"},
        part="message_age",
        suffices=_keeps_all,
    ),
    _Policy(
        "retention",
        "retention",
        {"retentionTimeInMinutes": RETENTION_MINUTES, "retentionSizeInMB": RETENTION_MB},
        suffices=_is_set,
    ),
    # The namespace may have a time to live, which acknowledges what nobody has seen.
    _Policy("messageTTL?messageTTL=0", "messageTTL", 0),
    # Else a topic without subscription and connection is deleted after a minute.
    _Policy(
        "inactiveTopicPolicies",
        "inactiveTopicPolicies",
        {
            "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
            "maxInactiveDurationSeconds": 60,
            "deleteWhileInactive": False,
        },
    ),
    # One user's stuck events are all unacknowledged; at a limit everybody else stops with them.
    _Policy("maxUnackedMessagesOnConsumer", "maxUnackedMessagesOnConsumer", 0),
    _Policy("maxUnackedMessagesOnSubscription", "maxUnackedMessagesOnSubscription", 0),
)


async def ensure_topic(admin: PulsarAdmin, topic: str, partitions: int | None = None) -> list[str]:
    """Make the partitioned topic be there, with its policies in force; returns what was changed.

    `partitions` None means 3 for a new topic and "as it is" for one that is there. Raises
    `ConfigurationError` if the topic is not partitioned or has more partitions than asked for,
    `BrokerUnavailable` if the policies don't come into force.
    """
    name = full_topic(topic)
    wanted = partitions or DEFAULT_PARTITIONS
    is_new = await admin.partitions(name) is None and (
        await admin.create_partitioned_topic(name, wanted)
    )
    changes = [f"created {name} with {counted(wanted, 'partition')}"] if is_new else []
    found = await _partitions(admin, name)
    if partitions and found > partitions:
        raise ConfigurationError(
            f"{name} has {counted(found, 'partition')} and can't shrink to {partitions}; nothing "
            f"was changed. Use --partitions {found}, or another topic."
        )
    if partitions and found < partitions:
        await admin.grow_topic(name, partitions)
        changes.append(
            f"grew {name} from {found} to {counted(partitions, 'partition')}; users move between "
            "partitions, so what they have undelivered now may be overtaken by newer events"
        )
        found = partitions
    return changes + await _ensure_policies(admin, name, _parts(name, found), is_new=is_new)


async def ensure_destination(
    admin: PulsarAdmin, topic: str, name: str, start: str = EARLIEST
) -> list[str]:
    """Make the destination's subscription and dead-letter topic be there; returns what was changed.

    A destination that is new begins on every partition at the earliest event that is kept, at the
    latest, or with what was published at `start` (RFC 3339) or later. One that is there is never
    moved, and gets all of a partition that was added. Raises `ConfigurationError` if there is no
    such topic or it is not partitioned.
    """
    main, subscription = full_topic(topic), subscription_name(name)
    parts = _parts(main, await _partitions(admin, main))
    dead = dead_letter_topic(topic, name)
    # The dead-letter topic comes last, so without it the destination is not complete: it may be
    # that another worker is making it right now.
    is_new = start != EARLIEST and await admin.partitions(dead) is None
    changes = await _ensure_subscription(
        admin, main, parts, subscription, start if is_new else EARLIEST
    )
    if start != EARLIEST and not changes:
        log.info(
            "destination.start_ignored",
            destination=name,
            start=start,
            reason="it has its subscription already, which stays where it is",
            what_to_do=f"keylane replay {name} --from TIME",
        )
    is_made = await admin.partitions(dead) is None and await admin.create_topic(dead)
    if is_made:
        changes.append(f"created {dead}")
    # Usually without partitions; one that other clients made with some does as well.
    dead_parts = _parts(dead, await admin.partitions(dead) or 0)
    changes += await _ensure_subscription(admin, dead, dead_parts, DEAD_LETTER_SUBSCRIPTION)
    return changes + await _ensure_policies(admin, dead, dead_parts, is_new=is_made)


async def ensure_redrive(admin: PulsarAdmin, topic: str, name: str) -> list[str]:
    """Make the topic be there on which the destination gets events once more.

    It stores once what is published twice under one sequence. Returns what was changed; raises
    `BrokerUnavailable` if that doesn't come into force.
    """
    again, subscription = redrive_topic(topic, name), subscription_name(name)
    is_new = await admin.create_topic(again)
    changes = [f"created {again}"] if is_new else []
    changes += await _ensure_subscription(admin, again, [again], subscription)
    changes += await _ensure_policies(admin, again, [again], is_new=is_new)
    return changes + await _ensure_deduplication(admin, again, [again])


async def ensure_deduplication(admin: PulsarAdmin, topic: str) -> list[str]:
    """Make the broker store once what a publisher sends twice; returns what was changed.

    It does so for publishers that have a name (`Broker.publisher`). Raises `ConfigurationError` if
    there is no such topic or it is not partitioned, `BrokerUnavailable` if it doesn't come into
    force.
    """
    name = full_topic(topic)
    return await _ensure_deduplication(admin, name, _parts(name, await _partitions(admin, name)))


async def _ensure_deduplication(admin: PulsarAdmin, name: str, parts: list[str]) -> list[str]:
    async def behind() -> list[str]:
        stats = {part: await admin.stats(part) for part in parts}
        return [p for p, found in stats.items() if found["deduplicationStatus"] != "Enabled"]

    changes = []
    # The namespace may have it; then the topic needs nothing of its own.
    if await behind() and not await admin.policy(name, _DEDUPLICATION):
        await admin.set_policy(name, _DEDUPLICATION, value=True)
        changes.append(f"set on {name}: {_DEDUPLICATION}")
    await _wait_until(behind, name)
    return changes


async def _partitions(admin: PulsarAdmin, name: str) -> int:
    found = await admin.partitions(name)
    if found is None:
        raise ConfigurationError(
            f"There is no topic {name}. Create it with `keylane topic setup`, or set KEYLANE_TOPIC."
        )
    if found == 0:
        raise ConfigurationError(
            f"{name} exists without partitions, so it can't be shared out; nothing was changed. "
            "Set KEYLANE_TOPIC to another name, or delete that topic once it is empty."
        )
    return found


def _parts(name: str, partitions: int) -> list[str]:
    return [partition_topic(name, number) for number in range(partitions)] or [name]


async def _ensure_subscription(
    admin: PulsarAdmin, name: str, parts: list[str], subscription: str, start: str = EARLIEST
) -> list[str]:
    # Asked for a partition at a time: after growing only some may have it.
    missing = [part for part in parts if subscription not in await admin.subscriptions(part)]
    made = [p for p in missing if await admin.create_subscription(p, subscription, start)]
    where = (
        f" ({len(made)} of {counted(len(parts), 'partition')})" if len(made) < len(parts) else ""
    )
    where += "" if start == EARLIEST else f", from {start} on"
    return [f"created subscription {subscription} on {name}{where}"] if made else []


async def _ensure_policies(
    admin: PulsarAdmin, name: str, parts: list[str], *, is_new: bool
) -> list[str]:
    """Set what is not in place. Few calls: this is most of what a worker does when it starts."""
    found = {} if is_new else await _policies(admin, name)
    lacking = _lacking(found)
    for policy in lacking:
        await admin.set_policy(name, policy.write, policy.value)
    await _wait_until_in_force(admin, name, parts, None if lacking else found)
    # Two quotas are one policy to the reader.
    set_now = dict.fromkeys(policy.write.partition("?")[0] for policy in lacking)
    return [f"set on {name}: {', '.join(set_now)}"] if set_now else []


async def _policies(admin: PulsarAdmin, name: str) -> dict[str, Any]:
    """What is set on the topic, by the calls that read it."""
    return {
        read: await admin.policy(name, read) for read in dict.fromkeys(p.read for p in POLICIES)
    }


def _lacking(found: Mapping[str, Any]) -> list[_Policy]:
    return [policy for policy in POLICIES if not policy.is_in_place(found.get(policy.read))]


async def _wait_until_in_force(
    admin: PulsarAdmin, name: str, parts: list[str], found: Mapping[str, Any] | None
) -> None:
    """`found` is what was read and suffices; None if something has been set since."""

    async def behind() -> list[str]:
        now = found or await _policies(admin, name)
        if lacking := _lacking(now):
            return [policy.read for policy in lacking]
        # So far it is what the broker has read of its log of policies. What a partition goes by
        # only its statistics tell, and they tell it of the quota alone.
        quota = now["backlogQuotaMap"]["destination_storage"]["limitSize"]
        stats = {part: await admin.stats(part) for part in parts}
        return [part for part, seen in stats.items() if seen["backlogQuotaLimitSize"] != quota]

    await _wait_until(behind, name)


async def _wait_until(behind: Callable[[], Awaitable[list[str]]], name: str) -> None:
    """Return when nothing is behind any more."""
    retrying = AsyncRetrying(
        retry=retry_if_result(bool), stop=stop_after_delay(IN_FORCE_WITHIN_S), wait=wait_fixed(0.1)
    )
    try:
        await retrying(behind)
    except RetryError as error:
        left = ", ".join(error.last_attempt.result())
        raise BrokerUnavailable(
            f"The policies of {name} are not in force after {IN_FORCE_WITHIN_S:g} s ({left}). "
            "Run `keylane topic setup` again; what was done stays."
        ) from error
