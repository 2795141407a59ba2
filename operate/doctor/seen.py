"""What the doctor looked at, as values: the checks know nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from keylane.broker import Position
from keylane.names import dead_letter_topic, full_topic, redrive_topic

#: What the admin interface answers to a look, None where it was refused or is not set.
Found: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """By how many seconds the broker's clock is ahead of ours, at the least and at the most."""

    at_least_s: float
    at_most_s: float

    @property
    def skew_s(self) -> float:
        """What can't be explained by the time that the question took; negative if it is behind."""
        return max(self.at_least_s, 0.0) + min(self.at_most_s, 0.0)


@dataclass(frozen=True, slots=True)
class BrokerSeen:
    """`configuration` is in force now, None if we may not see it; so are the namespace's policies.

    `dynamic` names what of it changes without a restart, `denied` what we may not look at,
    `unanswered` what the broker failed to answer.
    """

    version: str
    clock: ClockSeen | None
    configuration: Mapping[str, str] | None = None
    dynamic: frozenset[str] = frozenset()
    namespace: Found | None = None
    is_namespace_there: bool = True
    denied: Sequence[str] = ()
    unanswered: Sequence[str] = ()
    leftovers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TopicSeen:
    """`own` is set on the topic itself, `applied` holds with what it inherits.

    `parts` are the statistics of each partition, or of the topic without any; None where one is
    missing.
    """

    name: str
    partitions: int
    own: Found = field(default_factory=dict)
    applied: Found = field(default_factory=dict)
    parts: Mapping[str, Found | None] = field(default_factory=dict)

    def subscription(self, name: str) -> dict[str, Found | None]:
        """The statistics of a subscription by part; None where it is missing."""
        return {
            part: stats["subscriptions"].get(name)
            for part, stats in self.parts.items()
            if stats is not None
        }

    def subscriptions(self) -> dict[str, list[Found]]:
        """The statistics of each durable subscription, of every part that has it."""
        found: dict[str, list[Found]] = {}
        for stats in self.parts.values():
            for name, one in (stats or {}).get("subscriptions", {}).items():
                if one.get("isDurable", True):
                    found.setdefault(name, []).append(one)
        return found


@dataclass(frozen=True, slots=True)
class DestinationSeen:
    """`dead` and `again` are the topics of its dead letters and of what it gets once more."""

    name: str
    dead: TopicSeen | None = None
    again: TopicSeen | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one of the last messages of a partition says of its producer."""

    key: str
    position: Position
    producer: str
    publish_time_ms: int


@dataclass(frozen=True, slots=True)
class AccessSeen:
    """Why publishing to the topic, or reading it, was refused; None where it was not."""

    produce: str | None = None
    consume: str | None = None


@dataclass(frozen=True, slots=True)
class CanarySeen:
    """The steps that were done, each with the milliseconds it took; `failed` is the one after."""

    topic: str
    steps: Mapping[str, float]
    failed: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """All of it. `topic` is None if there is none, or if we may not know it.

    `now_ms` was our clock when the last messages were read, which are in `samples` by partition.
    `asked` and `asked_partitions` are what the caller wants to be there. `others` are subscriptions
    that are no destinations'. `access` and `canary` are None where they were not tried.
    """

    broker: BrokerSeen
    topic_name: str
    now_ms: int
    lease_s: float = 6.0
    asked: Sequence[str] = ()
    asked_partitions: int | None = None
    topic: TopicSeen | None = None
    is_topic_known: bool = True
    destinations: Sequence[DestinationSeen] = ()
    others: Sequence[str] = ()
    access: AccessSeen | None = None
    samples: Mapping[int, Sequence[Sampled]] = field(default_factory=dict)
    canary: CanarySeen | None = None

    @property
    def full_name(self) -> str:
        return full_topic(self.topic_name)

    def dead_name(self, destination: str) -> str:
        return dead_letter_topic(self.topic_name, destination)

    def again_name(self, destination: str) -> str:
        return redrive_topic(self.topic_name, destination)
