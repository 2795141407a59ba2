"""Checks of a destination: its subscription, its workers, its dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keylane.names import DEAD_LETTER_SUBSCRIPTION
from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.mending import Commands
from operate.doctor.seen import DestinationSeen, Found, Seen, TopicSeen
from operate.doctor.topicchecks import policy_findings

_KEY_SHARED = "Key_Shared"
_NOBODY = "None"
_RANGES = "managedLedgerMaxUnackedRangesToPersist"


def destination_findings(seen: Seen, commands: Commands) -> Iterator[Finding]:
    if seen.topic is None or not seen.topic.partitions:
        return
    for destination in seen.destinations:
        check = _Checks(seen, seen.topic, destination, commands)
        yield from check.subscription()
        yield from check.dead_letters()
        yield from check.redrive()
    for name in seen.others:
        yield from _other(name, seen.topic, commands)


class _Checks:
    def __init__(
        self, seen: Seen, topic: TopicSeen, destination: DestinationSeen, commands: Commands
    ) -> None:
        self._seen = seen
        self._name = destination.name
        self._destination = destination
        self._parts = topic.subscription(destination.name)
        self._commands = commands
        self._setup = commands.setup(destination.name)
        self._subject = f"{topic.name} ({destination.name})"

    def subscription(self) -> Iterator[Finding]:
        missing = [part for part, found in self._parts.items() if found is None]
        if missing:
            where = "on no partition" if len(missing) == len(self._parts) else ", ".join(missing)
            yield error(
                "subscription.missing",
                self._subject,
                f"no subscription {where}"
                if len(missing) == len(self._parts)
                else f"no subscription on {where}",
                "Events there are not kept for this destination: once retention is over they are "
                "gone.",
                Mend(command=self._setup),
            )
        there = {part: found for part, found in self._parts.items() if found is not None}
        if not there:
            return
        if not missing:
            yield well("subscription.missing", self._subject, f"on {len(there)} of {len(there)}")
        yield self._type(there)
        yield self._blocked(there)
        yield self._workers(there)
        yield self._ranges(there)

    def _type(self, there: Mapping[str, Found]) -> Finding:
        check = "subscription.type"
        others = {
            part: found
            for part, found in there.items()
            if found.get("consumers") and found.get("type") not in {_KEY_SHARED, _NOBODY}
        }
        if others:
            found = next(iter(others.values()))
            who = ", ".join(_who(one) for one in found["consumers"])
            return error(
                check,
                self._subject,
                f"consumed as {found['type']} by {who}",
                "No worker can connect while they are there, and what they acknowledge is never "
                "delivered.",
                Mend(advice=f"End that program, or give it a subscription of its own: {who}."),
            )
        if any(found.get("allowOutOfOrderDelivery") for found in there.values()):
            return error(
                check,
                self._subject,
                "a consumer allows delivery out of order",
                "A user's events reach workers in any order.",
                Mend(advice="End consumers that set allowOutOfOrderDelivery."),
            )
        return well(check, self._subject, _KEY_SHARED if _is_consumed(there) else "not in use")

    def _blocked(self, there: Mapping[str, Found]) -> Finding:
        check = "subscription.blocked"
        blocked = [
            part
            for part, found in there.items()
            if found.get("blockedSubscriptionOnUnackedMsgs")
            or any(one.get("blockedConsumerOnUnackedMsgs") for one in found.get("consumers", ()))
        ]
        if not blocked:
            return well(check, self._subject, "no")
        unload = " && ".join(
            self._commands.pulsar_admin("topics", "unload", part) for part in blocked
        )
        return error(
            check,
            self._subject,
            f"stopped at the limit of unacknowledged messages on {', '.join(blocked)}",
            "Nobody's events are delivered there until some are acknowledged.",
            Mend(command=f"{self._commands.setup()} && {unload}"),
        )

    def _workers(self, there: Mapping[str, Found]) -> Finding:
        check = "subscription.workers"
        backlog = sum(found.get("msgBacklog", 0) for found in there.values())
        idle = [part for part, found in there.items() if not found.get("consumers")]
        names = {
            str(one.get("consumerName"))
            for found in there.values()
            for one in found.get("consumers", ())
        }
        undelivered = sum(there[part].get("msgBacklog", 0) for part in idle)
        if not undelivered:
            return well(check, self._subject, f"{len(names)} workers, backlog {backlog:,}")
        return warning(
            check,
            self._subject,
            f"no worker on {len(idle)} of {len(there)} partitions, backlog {undelivered:,}",
            "What is undelivered there stays so.",
            Mend(command=self._commands.keylane("dispatch", self._name)),
        )

    def _ranges(self, there: Mapping[str, Found]) -> Finding:
        check = "subscription.ack_ranges"
        most = max(found.get("nonContiguousDeletedMessagesRanges", 0) for found in there.values())
        kept = int((self._seen.broker.configuration or {}).get(_RANGES, 0))
        found = f"{most:,} ranges of acknowledgements above stuck events"
        if not kept or most <= kept:
            return well(check, self._subject, found)
        return warning(
            check,
            self._subject,
            f"{found}, of which a broker's death leaves {kept:,}",
            "What was delivered beyond them comes again after the broker's death.",
            self._commands.configure(_RANGES, str(2 * most)),
        )

    def dead_letters(self) -> Iterator[Finding]:
        name, dead = self._seen.dead_name(self._name), self._destination.dead
        if dead is None:
            yield error(
                "dead_letters.topic",
                name,
                "there is no such topic",
                "An event that is given up holds its user up, unless a worker may create it.",
                Mend(command=self._setup),
            )
            return
        yield well("dead_letters.topic", name, "it is there")
        parts = dead.subscription(DEAD_LETTER_SUBSCRIPTION)
        if any(found is None for found in parts.values()):
            yield error(
                "dead_letters.subscription",
                name,
                f"no subscription {DEAD_LETTER_SUBSCRIPTION}",
                "Dead letters are not kept: once retention is over they are gone, and a redrive "
                "finds none.",
                Mend(command=self._setup),
            )
        else:
            yield well("dead_letters.subscription", name, DEAD_LETTER_SUBSCRIPTION)
            yield self._waiting(name, [found for found in parts.values() if found is not None])
        drain = self._commands.keylane("dlq", "redrive", self._name)
        yield from policy_findings(
            dead, self._commands, self._setup, is_delivered=False, drain=drain
        )

    def _waiting(self, name: str, parts: list[Found]) -> Finding:
        check, backlog = "dead_letters.backlog", sum(one.get("msgBacklog", 0) for one in parts)
        if not backlog:
            return well(check, name, "none")
        return warning(
            check,
            name,
            f"{backlog:,} dead letters",
            "These events were given up; they stay undelivered until somebody redrives them.",
            Mend(command=self._commands.keylane("dlq", "list", self._name)),
        )

    def redrive(self) -> Iterator[Finding]:
        name, again = self._seen.again_name(self._name), self._destination.again
        if again is None:
            yield well("redrive.topic", name, "made by setup, or when its first worker starts")
            return
        if any(found is None for found in again.subscription(self._name).values()):
            yield error(
                "redrive.subscription",
                name,
                f"no subscription {self._name}",
                "What is redriven or replayed is not kept, and never delivered.",
                Mend(command=self._setup),
            )
        else:
            yield well("redrive.subscription", name, self._name)
        if any((s or {}).get("deduplicationStatus") != "Enabled" for s in again.parts.values()):
            yield warning(
                "redrive.deduplication",
                name,
                "it does not deduplicate",
                "A redrive that was cut off and is run again delivers some events twice.",
                Mend(command=self._setup),
            )
        yield from policy_findings(again, self._commands, self._setup)


def _other(name: str, topic: TopicSeen, commands: Commands) -> Iterator[Finding]:
    """A subscription that is no destination's counts against the quota all the same."""
    there = topic.subscriptions().get(name, [])
    backlog = sum(found.get("msgBacklog", 0) for found in there)
    subject = f"{topic.name} ({name})"
    if not backlog or any(found.get("consumers") for found in there):
        yield well("subscription.other", subject, f"not a destination's, backlog {backlog:,}")
        return
    drop = commands.pulsar_admin("topics", "unsubscribe", "--subscription", name, topic.name)
    yield warning(
        "subscription.other",
        subject,
        f"not a destination's, nobody reads it, backlog {backlog:,}",
        "It keeps all events from now on; at the quota publishing stops for everybody.",
        Mend(
            command=drop,
            advice="Only if nobody is to get these events. If it is a destination: "
            f"{commands.setup(name)}",
        ),
    )


def _is_consumed(there: Mapping[str, Found]) -> bool:
    return any(found.get("consumers") for found in there.values())


def _who(consumer: Found) -> str:
    return f"{consumer.get('consumerName')} at {consumer.get('address')}"
