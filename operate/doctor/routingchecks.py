"""Checks of what producers put on the topic: where keys lie, batches, their clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from keylane.broker import Position
from keylane.routing import partition_of
from operate.doctor.brokerchecks import SKEW_TOLD_S
from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.seen import Sampled, Seen

_SHOWN: Final = 3
_USERS_THAT_PROVE: Final = 8
_HASH: Final = (
    "Let that producer hash keys as Java does: hashingScheme JavaStringHash in C++ and Node.js, "
    "the default in Java and Go, and in Python create_producer(..., message_router=lambda message, "
    "partitions: partition_of(message.partition_key(), partitions)) with keylane.routing."
)


def routing_findings(seen: Seen) -> Iterator[Finding]:
    if seen.topic is None or not any(seen.samples.values()):
        return
    partitions, samples = seen.topic.partitions, seen.samples
    name = seen.topic.name
    yield _partitions(name, partitions, samples)
    yield _keys(name, samples)
    yield _batches(name, samples)
    yield _clocks(name, seen.now_ms, samples)


def _partitions(name: str, partitions: int, samples: Mapping[int, Sequence[Sampled]]) -> Finding:
    check = "routing.partitions"
    keyed = [(p, one) for p, part in samples.items() for one in part if one.key]
    astray = [(p, one) for p, one in keyed if partition_of(one.key, partitions) != p]
    if not astray:
        return well(check, name, f"the last {len(keyed):,} keyed messages lie where they belong")
    found = f"{len(astray):,} of the last {len(keyed):,} keyed messages lie in another partition"
    found += f" than ingest would choose, from {_producers(one for _, one in astray)}"
    grew = _grown_from(astray, partitions)
    if grew is not None:
        return warning(
            check,
            name,
            found,
            f"They lie as with {grew} partitions: the topic has grown since. What these users have "
            "undelivered may be overtaken by newer events.",
            Mend(advice="Nothing is to be done once the backlog from then is delivered."),
        )
    users = sorted({one.key for _, one in astray})
    return error(
        check,
        name,
        found,
        f"Users such as {', '.join(users[:_SHOWN])} have events in two partitions, which are "
        "delivered beside each other: their order is lost.",
        Mend(advice=_HASH),
    )


def _grown_from(astray: Sequence[tuple[int, Sampled]], partitions: int) -> int | None:
    """A smaller number of partitions with which all of them would lie right."""
    # With few users some number fits by chance.
    if len({one.key for _, one in astray}) < _USERS_THAT_PROVE:
        return None
    for number in range(partitions - 1, 0, -1):
        if all(partition_of(one.key, number) == p for p, one in astray):
            return number
    return None


def _keys(name: str, samples: Mapping[int, Sequence[Sampled]]) -> Finding:
    check = "routing.keys"
    keyless = [one for part in samples.values() for one in part if not one.key]
    if not keyless:
        return well(check, name, "every message has a key")
    return error(
        check,
        name,
        f"{len(keyless):,} of the last messages have no key, from {_producers(keyless)}",
        "Without a user there is no order: each destination dead-letters them as malformed.",
        Mend(advice="Let that producer set the user as the message's key."),
    )


def _batches(name: str, samples: Mapping[int, Sequence[Sampled]]) -> Finding:
    check = "routing.batches"
    mixed = [one for part in samples.values() for one in _mixed(part)]
    if not mixed:
        return well(check, name, "no batch holds events of several users")
    return error(
        check,
        name,
        f"batches with several users' events, from {_producers(mixed)}",
        "A batch goes to one worker, that of its first user: the others' events reach two workers, "
        "and their order is lost.",
        Mend(
            advice="Let that producer batch by key (batchingType=KeyBased, in Java "
            "BatcherBuilder.KEY_BASED), or not at all."
        ),
    )


def _mixed(part: Sequence[Sampled]) -> list[Sampled]:
    batches: dict[Position, list[Sampled]] = {}
    for one in part:
        ledger, entry, index = one.position
        if index >= 0:
            batches.setdefault((ledger, entry, 0), []).append(one)
    return [one for batch in batches.values() for one in batch if len({o.key for o in batch}) > 1]


def _clocks(name: str, now_ms: int, samples: Mapping[int, Sequence[Sampled]]) -> Finding:
    """Only a clock that is ahead shows: a message that is old may just have been waiting."""
    check = "routing.clocks"
    early = [
        one
        for part in samples.values()
        for one in part
        if one.publish_time_ms > now_ms + SKEW_TOLD_S * 1000
    ]
    if not early:
        return well(check, name, "no message is from the future")
    by_s = max(one.publish_time_ms - now_ms for one in early) / 1000
    return warning(
        check,
        name,
        f"messages from up to {by_s:,.0f} s in the future, from {_producers(early)}",
        "A replay by time begins and ends elsewhere, and ages of events are counted wrongly.",
        Mend(command="timedatectl set-ntp true", advice="On the machine of that producer."),
    )


def _producers(messages: Iterator[Sampled] | Sequence[Sampled]) -> str:
    by_name = Counter(one.producer for one in messages)
    shown = [name or "an unnamed producer" for name, _ in by_name.most_common(_SHOWN)]
    more = len(by_name) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
