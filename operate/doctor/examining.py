"""All checks over what was looked at."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from keylane.settings import Settings
from operate.doctor.accesschecks import access_findings, canary_findings
from operate.doctor.brokerchecks import broker_findings
from operate.doctor.destinationchecks import destination_findings
from operate.doctor.findings import Finding, worst_first
from operate.doctor.mending import UNKNOWN_ROLE, Commands
from operate.doctor.routingchecks import routing_findings
from operate.doctor.seen import Seen
from operate.doctor.topicchecks import topic_findings


def examine(
    seen: Seen, settings: Settings, config: Path | None = None, role: str = UNKNOWN_ROLE
) -> list[Finding]:
    """The worst first. `config` is the file that was named for settings, `role` what we are at the
    broker."""
    commands = Commands.of(settings, config, seen.broker.dynamic)
    return worst_first(
        chain(
            access_findings(seen, commands, role),
            broker_findings(seen, commands),
            topic_findings(seen, commands),
            destination_findings(seen, commands),
            routing_findings(seen),
            canary_findings(seen, commands),
        )
    )
