"""The settings that a local broker gets on top of Pulsar's own standalone.conf."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from operate.broker.ports import HOST

# points a consumer on the Key_Shared ring
KEY_SHARED_RING_POINTS: Final = 1000

# Acknowledged messages above a stuck one that survive a broker crash.
ACKNOWLEDGED_RANGES_KEPT: Final = 200_000

# After a failed read of its storage the broker sends nothing of a partition to anybody: by default
# for 15 s, then for up to 60.
READ_AGAIN_MS: Final = 1_000
READ_AGAIN_AT_MOST_MS: Final = 10_000

# How often a second the broker looks through all topics for what its cache holds for more than a
# second: by default 100 times, which with some hundred topics is most of what an idle one does.
EVICTIONS_A_SECOND: Final = 10.0

# Enough for millions of small events; a third of what Pulsar takes by default.
MEMORY: Final = "-Xms512m -Xmx1g -XX:MaxDirectMemorySize=1g"
COLLECTOR: Final = "-XX:+UseSerialGC -XX:+PerfDisableSharedMem"
# With two processors Java takes its pool for too small, and begins a thread for each step that goes
# on by itself: Pulsar has a hundred a second while topics are set up. 8 % of the processor time.
POOL: Final = "-Djava.util.concurrent.ForkJoinPool.common.parallelism=2"
POOL_IS_TOO_SMALL_BELOW: Final = 3
# Half of the processor time until it is healthy, and two thirds of the events a second from then on
# (measured with 40,000 small ones).
FOR_A_SHORT_LIFE: Final = "-XX:TieredStopAtLevel=1"


@dataclass(frozen=True, slots=True)
class BrokerPorts:
    service: int
    admin: int
    bookie: int


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What a broker is started with, whichever way it is run."""

    ports: BrokerPorts
    data_dir: Path
    data_is_temporary: bool
    outlives_owner: bool
    extra_conf: Mapping[str, str]
    is_short_lived: bool = False
    log_level: str = "info"

    @property
    def java_flags(self) -> str:
        """How Java collects garbage, shares out its work, and how far it compiles."""
        is_small = (os.cpu_count() or 1) < POOL_IS_TOO_SMALL_BELOW
        flags = (COLLECTOR, POOL * is_small, FOR_A_SHORT_LIFE * self.is_short_lived)
        return " ".join(flag for flag in flags if flag)


def broker_settings(ports: BrokerPorts, extra: Mapping[str, str]) -> dict[str, str]:
    """What differs from Pulsar's defaults; `extra` wins."""
    settings = {
        "brokerServicePort": str(ports.service),
        "webServicePort": str(ports.admin),
        "advertisedAddress": HOST,
        "topicLevelPoliciesEnabled": "true",
        "systemTopicEnabled": "true",
        # One user's stuck events must not stop the others of the partition.
        "maxUnackedMessagesPerConsumer": "0",
        "maxUnackedMessagesPerSubscription": "0",
        "managedLedgerPersistIndividualAckAsLongArray": "false",
        "managedLedgerMaxUnackedRangesToPersist": str(ACKNOWLEDGED_RANGES_KEPT),
        "subscriptionKeySharedConsistentHashingReplicaPoints": str(KEY_SHARED_RING_POINTS),
        "dispatcherReadFailureBackoffInitialTimeInMs": str(READ_AGAIN_MS),
        "dispatcherReadFailureBackoffMaxTimeInMs": str(READ_AGAIN_AT_MOST_MS),
        "managedLedgerCacheEvictionFrequency": str(EVICTIONS_A_SECOND),
    }
    if "advertisedListeners" in extra:
        del settings["advertisedAddress"]  # the broker refuses to start with both
    return settings | dict(extra)


def process_settings() -> dict[str, str]:
    """What a broker needs besides that shares this machine with others."""
    return {
        # A local broker asks nobody who they are, so only this machine may reach it.
        "bindAddress": HOST,
        "listeningInterface": _loopback_name(),  # what the storage calls bindAddress
        # Without it the storage ignores the port it is given and draws one.
        "allowEphemeralPorts": "true",
    }


def render_standalone_conf(shipped: str, settings: Mapping[str, str]) -> str:
    """The shipped file with `settings` in it.

    A setting replaces its line instead of following it: the storage reads the same file and takes
    the first of two values, where the broker takes the last.
    """
    kept = [line for line in shipped.splitlines() if _name_of(line) not in settings]
    ours = [f"{name}={value}" for name, value in settings.items()]
    return "\n".join([*kept, "", *ours, ""])


def _loopback_name() -> str:
    """`lo` on Linux, `lo0` on macOS."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _name_of(line: str) -> str:
    return line.partition("=")[0].strip()
