"""Checks of a topic's backlog quota, and of how much of it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from keylane.topics import BACKLOG_BYTES, RETENTION_MB, RETENTION_MINUTES
from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.mending import TopicMending
from operate.doctor.seen import Found, TopicSeen

#: A quota below this, or below an hour of what comes in, is filled by a short outage.
SMALLEST_QUOTA: Final = 1024**3
_OUTAGE_S: Final = 3_600
#: Shares of the quota from which a backlog is told, and does harm.
_BACKLOG_TOLD: Final = 0.5
_BACKLOG_HARMFUL: Final = 0.9
_STORAGE: Final = "destination_storage"
_MB: Final = 1024**2


def quota_findings(
    topic: TopicSeen, mending: TopicMending, drain: str | None = None
) -> Iterator[Finding]:
    """`drain` is the command that lessens the topic's backlog, if more workers do not."""
    yield _quota(topic, mending)
    yield from _age_quota(topic, mending)
    yield from _backlog(topic, mending, drain)


def retention_words(topic: TopicSeen) -> Sequence[str]:
    """A retention above the quota, and no shorter than the one that is set."""
    minutes = (topic.applied.get("retention") or {}).get("retentionTimeInMinutes", 0)
    kept = "-1" if minutes < 0 else f"{max(minutes, RETENTION_MINUTES)}m"
    size = max(RETENTION_MB, math.ceil(_storage_quota(topic) * RETENTION_MB / BACKLOG_BYTES))
    return ("--time", kept, "--size", f"{size}M")


def _quota(topic: TopicSeen, mending: TopicMending) -> Finding:
    check = "topic.quota"
    quota, limit = _quota_of(topic, _STORAGE), _storage_quota(topic)
    policy = str(quota.get("policy"))
    found = f"{_bytes(limit)} a partition, then {policy}" if limit else "no quota"
    mend = mending.of("backlogQuotaMap", *_quota_words(), part=_STORAGE)
    retention = (topic.applied.get("retention") or {}).get("retentionSizeInMB", 0)
    if mend.command != mending.setup and 0 < retention * _MB <= BACKLOG_BYTES:
        # A quota has to stay below the retention.
        raised = mending.by_hand("topics", "set-retention", *retention_words(topic))
        mend = Mend(command=f"{raised} && {mend.command}")
    if limit and policy == "consumer_backlog_eviction":
        consequence = "At the quota the oldest undelivered events are dropped without a word."
        return error(check, topic.name, found, consequence, mend)
    if limit and policy == "producer_request_hold":
        consequence = (
            "At the quota requests hang until they time out, and nobody knows whether their "
            "events are stored; with producer_exception they are refused at once."
        )
        return warning(check, topic.name, found, consequence, mend)
    incoming = max((stats or {}).get("msgThroughputIn", 0.0) for stats in topic.parts.values())
    needed = max(SMALLEST_QUOTA, incoming * _OUTAGE_S)
    if 0 < limit < needed:
        consequence = (
            f"An outage of one destination that leaves {_bytes(limit)} undelivered (less than "
            f"{_bytes(needed)}: an hour of what comes in, or 1 GiB) stops all publishing."
        )
        return warning(check, topic.name, found, consequence, mend)
    return well(check, topic.name, found)


def _quota_words() -> Sequence[str]:
    limit = f"{BACKLOG_BYTES // 1024**3}G"
    return ("topics", "set-backlog-quota", "--limit", limit, "--policy", "producer_exception")


def _age_quota(topic: TopicSeen, mending: TopicMending) -> Iterator[Finding]:
    quota = _quota_of(topic, "message_age")
    seconds = quota.get("limitTime", -1)
    if seconds <= 0:
        return
    is_dropping = quota.get("policy") == "consumer_backlog_eviction"
    how_bad = error if is_dropping else warning
    remove = mending.by_hand("topics", "remove-backlog-quota", "--type", "message_age")
    is_own = "message_age" in (topic.own.get("backlogQuotaMap") or {})
    mend = Mend(command=f"{remove} && {mending.setup}" if is_own else mending.setup)
    yield how_bad(
        "topic.age_quota",
        topic.name,
        f"undelivered events may be {seconds:,} s old, then {quota.get('policy')}",
        "What a stuck user has is dropped after that time, undelivered."
        if is_dropping
        else "One user's stuck event stops all publishing after that time.",
        mend,
    )


def _backlog(topic: TopicSeen, mending: TopicMending, drain: str | None) -> Iterator[Finding]:
    limit = _storage_quota(topic)
    sizes = {part: (stats or {}).get("backlogSize", 0) for part, stats in topic.parts.items()}
    part = max(sizes, key=lambda one: sizes[one], default=None)
    if part is None or limit <= 0:
        return
    share = sizes[part] / limit
    found = f"{_bytes(sizes[part])} of {_bytes(limit)} ({share:.0%})"
    if share < _BACKLOG_TOLD:
        yield well("topic.backlog", part, found)
        return
    behind = (topic.parts[part] or {}).get("subscriptions", {})
    slowest = max(behind, key=lambda one: behind[one].get("msgBacklog", 0), default="nobody")
    how_bad = error if share >= _BACKLOG_HARMFUL else warning
    raised = mending.by_hand(
        *_quota_words()[:3], f"{math.ceil(limit * 2 / _MB)}M", *_quota_words()[4:]
    )
    yield how_bad(
        "topic.backlog",
        part,
        found,
        f"At the quota publishing stops for everybody. {slowest} has most undelivered.",
        Mend(
            command=drain or mending.commands.keylane("dispatch", slowest, "--workers", "4"),
            advice=f"If that does not help, repair the receiver or double the quota: {raised}",
        ),
    )


def _quota_of(topic: TopicSeen, kind: str) -> Found:
    found: Any = (topic.applied.get("backlogQuotaMap") or {}).get(kind)
    return found or {}


def _storage_quota(topic: TopicSeen) -> int:
    """Bytes; 0 without one."""
    quota = _quota_of(topic, _STORAGE)
    return max(0, int(quota.get("limitSize", quota.get("limit", 0))))


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:  # noqa: PLR2004  bytes of a KiB, and so on
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} GiB"
