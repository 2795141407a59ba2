"""The topic of a table, so that it is there and keeps what is put.

A topic without a subscription keeps nothing unless it has a retention; with one it needs no
subscription, which would hold everything back for ever. What is older than the retention is
deleted, a ledger at a time. Compaction keeps the latest of each key beyond that: for a table whose
keys are few and stay. Where each key is written once it would only keep what nobody needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from keylane.admin import PulsarAdmin
from keylane.names import full_topic

#: Bytes after which the broker compacts a table that keeps everything.
COMPACTION_BYTES: Final = 1024 * 1024
_FOR_EVER: Final = -1


async def ensure_table(admin: PulsarAdmin, topic: str, *, keep_s: float | None = None) -> list[str]:
    """Make the table's topic be there with its policies; returns in sentences what was changed.

    What was put is kept for `keep_s` seconds at least; None keeps the latest of each key for ever.
    """
    name = full_topic(topic)
    is_new = await admin.create_topic(name)
    changes = [f"created {name}"] if is_new else []
    for policy, value in _policies(keep_s).items():
        found = None if is_new else await admin.policy(name, policy)
        if not _is_in_place(found, value):
            await admin.set_policy(name, policy, value)
            changes.append(f"set {policy} of {name}")
    return changes


def _policies(keep_s: float | None) -> dict[str, Any]:
    minutes = _FOR_EVER if keep_s is None else math.ceil(keep_s / 60) + 1
    policies: dict[str, Any] = {
        "retention": {"retentionTimeInMinutes": minutes, "retentionSizeInMB": _FOR_EVER},
        # Else it is deleted a minute after its last worker has gone.
        "inactiveTopicPolicies": {
            "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
            "maxInactiveDurationSeconds": 60,
            "deleteWhileInactive": False,
        },
    }
    if keep_s is None:
        policies["compactionThreshold"] = COMPACTION_BYTES
    return policies


def _is_in_place(found: Any, value: Any) -> bool:
    if isinstance(found, Mapping) and isinstance(value, Mapping):
        return all(found.get(name) == part for name, part in value.items())
    return bool(found == value)
