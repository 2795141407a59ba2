"""Checks of what we are allowed to do, and of the canary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from operate.doctor.findings import Finding, Mend, error, warning, well
from operate.doctor.mending import UNKNOWN_ROLE, Commands
from operate.doctor.seen import CanarySeen, Seen

_AS_ADMINISTRATOR: Final = "Run it as a superuser of the broker."


def access_findings(seen: Seen, commands: Commands, role: str) -> Iterator[Finding]:
    broker = seen.broker
    if not broker.is_namespace_there:
        yield error(
            "namespace.missing",
            commands.namespace,
            "there is no such namespace",
            "No topic can be created in it.",
            Mend(command=commands.pulsar_admin("namespaces", "create", commands.namespace)),
        )
        return
    yield _administration(seen, commands, role)
    minutes = (broker.namespace or {}).get("subscription_expiration_time_minutes")
    if minutes:
        words = ("namespaces", "set-subscription-expiration-time", "--time", "0")
        yield error(
            "namespace.expiration",
            commands.namespace,
            f"subscriptions nobody reads for {minutes:,} min are deleted",
            "A destination that is down for that long loses all its undelivered events.",
            Mend(command=commands.pulsar_admin(*words, commands.namespace)),
        )
    if seen.access is not None:
        yield _use("permission.produce", "publish to", seen.access.produce, seen, commands, role)
        yield _use("permission.consume", "read", seen.access.consume, seen, commands, role)


def _administration(seen: Seen, commands: Commands, role: str) -> Finding:
    check, subject = "permission.administer", commands.namespace
    if not seen.broker.denied:
        return well(check, subject, "we may set up topics")
    return error(
        check,
        subject,
        f"{role} may not administer {commands.tenant}: refused {', '.join(seen.broker.denied)}",
        "Neither topics nor subscriptions nor policies can be set up, and what was refused is not "
        "checked.",
        Mend(command=commands.make_administrator(role), advice=_who(role)),
    )


def _use(
    check: str, what: str, refused: str | None, seen: Seen, commands: Commands, role: str
) -> Finding:
    if refused is None:
        return well(check, seen.full_name, f"we may {what} it")
    consequence = f"Nothing that has to {what} the topic starts."
    if "not authorized" in refused.lower():
        words = ("namespaces", "grant-permission", "--role", role, "--actions", "produce,consume")
        grant = Mend(command=commands.pulsar_admin(*words, commands.namespace), advice=_who(role))
        return error(check, seen.full_name, f"{role} may not {what} it", consequence, grant)
    advice = "See what else is found here; correct KEYLANE_PULSAR__SERVICE_URL if nothing is."
    return error(
        check, seen.full_name, f"can't {what} it: {refused}", consequence, Mend(advice=advice)
    )


def _who(role: str) -> str:
    if role != UNKNOWN_ROLE:
        return _AS_ADMINISTRATOR
    return f"{_AS_ADMINISTRATOR} {UNKNOWN_ROLE} is what the broker knows us by."


def canary_findings(seen: Seen, commands: Commands) -> Iterator[Finding]:
    for name in seen.broker.leftovers:
        words = ("topics", "delete-partitioned-topic", "--force", name)
        yield warning(
            "canary.leftover",
            name,
            "the topic of a canary whose doctor was killed",
            "It holds one message, and stays for ever.",
            Mend(command=commands.pulsar_admin(*words)),
        )
    if seen.canary is not None:
        yield _canary(seen.canary)


def _canary(canary: CanarySeen) -> Finding:
    done = ", ".join(f"{step} {took:,.0f} ms" for step, took in canary.steps.items())
    if canary.failed is None:
        return well("canary", canary.topic, done)
    return error(
        "canary",
        canary.topic,
        f"not {canary.failed}: {canary.error}" + (f" (before that: {done})" if done else ""),
        "An event would not get through either.",
        Mend(advice="Mend what else is found here, then run this again."),
    )
