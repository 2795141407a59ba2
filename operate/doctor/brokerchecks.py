"""Checks of the broker itself: version, clock, and the settings that no topic can overrule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from operate.broker.config import (
    ACKNOWLEDGED_RANGES_KEPT,
    KEY_SHARED_RING_POINTS,
    READ_AGAIN_MS,
)
from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.mending import Commands
from operate.doctor.seen import BrokerSeen, Seen

#: The first with which a key that changes hands waits until its events so far are acknowledged.
OLDEST: Final = (4, 0, 0)
#: The first without the known faults by which a subscription can come to a stop.
SOUND: Final = (4, 0, 13)
_FAULTS: Final[Mapping[tuple[int, int, int], str]] = {
    (4, 0, 11): "a race in redelivery and counters that drift (mended in 4.0.11)",
    (4, 0, 13): "a stall at the end of the topic (mended in 4.0.13)",
}
#: Seconds between two clocks: beyond the first it is told, beyond the second it does harm.
SKEW_TOLD_S: Final = 5.0
SKEW_HARMFUL_S: Final = 60.0

_BROKER: Final = "broker"


def broker_findings(seen: Seen, commands: Commands) -> Iterator[Finding]:
    broker = seen.broker
    yield _version(broker.version)
    yield _clock(broker)
    yield from _unanswered(broker)
    if broker.configuration is None:
        yield warning(
            "broker.configuration",
            _BROKER,
            "its configuration can't be looked at: only a superuser may",
            "What follows from the brokers' own settings is not checked.",
            Mend(
                command=commands.keylane("doctor", "--no-canary"),
                advice="Run this with a superuser's token in KEYLANE_PULSAR__TOKEN.",
            ),
        )
        return
    for setting in _SETTINGS:
        yield setting.finding(broker.configuration, commands)
    yield _keep_alive(broker.configuration, seen.lease_s, commands)


def _version(version: str) -> Finding:
    check, found = "broker.version", f"Pulsar {version}"
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if numbers is None:
        return warning(
            check, _BROKER, found, "Not a release that is known.", Mend(advice="Run 4.0.13.")
        )
    release = tuple(map(int, numbers.groups()))
    upgrade = Mend(advice="Upgrade the brokers to Pulsar 4.0.13 or newer, one at a time.")
    if release < OLDEST:
        consequence = (
            "Before 4.0 a user's events can reach two workers at once when workers come and go: "
            "their order is not kept."
        )
        return error(check, _BROKER, found, consequence, upgrade)
    faults = [fault for mended_in, fault in _FAULTS.items() if release < mended_in]
    if faults:
        consequence = (
            f"A subscription can come to a stop by a fault of the broker: {'; '.join(faults)}. "
            "`pulsar-admin topics unload` of the partition cures it each time."
        )
        return warning(check, _BROKER, found, consequence, upgrade)
    return well(check, _BROKER, found)


def _clock(broker: BrokerSeen) -> Finding:
    check = "broker.clock"
    if broker.clock is None:
        return warning(
            check,
            _BROKER,
            "the admin interface does not tell its time",
            "Its clock is not compared with ours.",
            Mend(advice="Let the proxy in front of it pass on the Date header."),
        )
    skew_s = broker.clock.skew_s
    found = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's clock"
    if abs(skew_s) < SKEW_TOLD_S:
        return well(check, _BROKER, "within the seconds that a question takes")
    consequence = (
        "Tokens are refused as expired or not valid yet, retention and ages of messages are "
        "counted wrongly, and a replay by time begins and ends elsewhere."
    )
    how_bad = error if abs(skew_s) >= SKEW_HARMFUL_S else warning
    advice = "On the machine whose clock is wrong, this one or the broker's."
    return how_bad(
        check, _BROKER, found, consequence, Mend(command="timedatectl set-ntp true", advice=advice)
    )


def _unanswered(broker: BrokerSeen) -> Iterator[Finding]:
    if broker.unanswered:
        yield error(
            "broker.answers",
            _BROKER,
            f"no answer about {', '.join(broker.unanswered)}",
            "What was asked there is not checked; the broker may be overloaded or losing storage.",
            Mend(advice="Look into the broker's log, then run this again."),
        )


def _keep_alive(configuration: Mapping[str, str], lease_s: float, commands: Commands) -> Finding:
    check, name = "broker.keep_alive", "keepAliveIntervalSeconds"
    found = configuration.get(name, "30")
    if float(found) > lease_s:
        return well(check, _BROKER, f"{name}={found}")
    return error(
        check,
        _BROKER,
        f"{name}={found}, not above dispatch.lease_s={lease_s:g}",
        "A cut-off worker may still attempt a user's event when another one got it.",
        commands.configure(name, "30"),
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """One of the broker's settings: what suffices, and what it is to be set to if it does not."""

    check: str
    name: str
    suffices: Callable[[str], bool]
    value: str
    consequence: str
    how_bad: Callable[[str, str, str, str, Mend], Finding]

    def finding(self, configuration: Mapping[str, str], commands: Commands) -> Finding:
        found = configuration.get(self.name)
        shown = f"{self.name}={found}"
        # A broker that does not know a setting does not do what it stands for.
        if found is None or self.suffices(found):
            return well(self.check, _BROKER, shown if found is not None else f"no {self.name}")
        mend = commands.configure(self.name, self.value)
        return self.how_bad(self.check, _BROKER, shown, self.consequence, mend)


def _is(value: str) -> Callable[[str], bool]:
    return lambda found: found.lower() == value


def _at_least(number: int) -> Callable[[str], bool]:
    return lambda found: int(found) >= number


def _at_most(number: int) -> Callable[[str], bool]:
    return lambda found: int(found) <= number


_SETTINGS: Final = (
    _Setting(
        "broker.topic_policies",
        "topicLevelPoliciesEnabled",
        _is("true"),
        "true",
        "A topic can't have limits, retention or a quota of its own; nothing can be set up.",
        error,
    ),
    _Setting(
        "broker.system_topics",
        "systemTopicEnabled",
        _is("true"),
        "true",
        "A topic can't have limits, retention or a quota of its own; nothing can be set up.",
        error,
    ),
    _Setting(
        "broker.key_shared",
        "subscriptionKeySharedEnable",
        _is("true"),
        "true",
        "No worker can subscribe.",
        error,
    ),
    _Setting(
        "broker.key_shared_draining",
        "subscriptionKeySharedUseClassicPersistentImplementation",
        _is("false"),
        "false",
        "A user's events can reach two workers at once when workers come and go: their order is "
        "not kept.",
        error,
    ),
    _Setting(
        "broker.non_persistent",
        "enableNonPersistentTopics",
        _is("true"),
        "true",
        "Workers can't tell each other about users that change hands, and are not reached by "
        "commands.",
        error,
    ),
    _Setting(
        "broker.unacknowledged",
        "maxUnackedMessagesPerBroker",
        _is("0"),
        "0",
        "At that many events of stuck users the broker stops whole subscriptions, for all users; "
        "no topic can lift it.",
        error,
    ),
    _Setting(
        "broker.ack_pause",
        "dispatcherPauseOnAckStatePersistentEnabled",
        _is("false"),
        "false",
        "A subscription stops for all users while acknowledgements above a stuck user's event are "
        "more than can be stored.",
        warning,
    ),
    _Setting(
        "broker.ack_format",
        "managedLedgerPersistIndividualAckAsLongArray",
        _is("false"),
        "false",
        "Stored as a bitmap, acknowledgements above a stuck user's event count by the message and "
        "not by the range: fewer survive a broker's death, and what was delivered comes again.",
        warning,
    ),
    _Setting(
        "broker.ack_ranges",
        "managedLedgerMaxUnackedRangesToPersist",
        _at_least(ACKNOWLEDGED_RANGES_KEPT),
        str(ACKNOWLEDGED_RANGES_KEPT),
        "Of the acknowledgements above a stuck user's event no more ranges survive a broker's "
        "death: what was delivered beyond them comes again.",
        warning,
    ),
    _Setting(
        "broker.ring_points",
        "subscriptionKeySharedConsistentHashingReplicaPoints",
        _at_least(KEY_SHARED_RING_POINTS),
        str(KEY_SHARED_RING_POINTS),
        "Users are shared out unevenly: of four workers one may get half as many as another.",
        warning,
    ),
    _Setting(
        "broker.read_again",
        "dispatcherReadFailureBackoffInitialTimeInMs",
        _at_most(READ_AGAIN_MS),
        str(READ_AGAIN_MS),
        "After one read from the storage that failed, a partition's events reach nobody for so "
        "long.",
        warning,
    ),
)
