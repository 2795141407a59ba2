"""Looks at a broker and a topic, and changes nothing but the canary's own topic."""

from __future__ import annotations

import asyncio
import email.utils
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

from keylane.admin import Answer, PulsarAdmin
from keylane.errors import BrokerError, BrokerUnavailable, ConfigurationError
from keylane.names import (
    dead_letter_topic,
    full_topic,
    partition_topic,
    redrive_topic,
    subscription_name,
)
from keylane.pulsar import PulsarBroker
from keylane.pulsarlog import PulsarLogs
from keylane.settings import Settings
from keylane.topics import POLICIES
from operate.doctor.canary import abandoned, fly
from operate.doctor.sampling import sample, start_of_last
from operate.doctor.seen import (
    AccessSeen,
    BrokerSeen,
    CanarySeen,
    ClockSeen,
    DestinationSeen,
    Sampled,
    Seen,
    TopicSeen,
)
from operate.doctor.topicchecks import ACK_PAUSE

_READ: Final = (*dict.fromkeys(policy.read for policy in POLICIES), ACK_PAUSE)
_OK: Final = 200
_NO_CONTENT: Final = 204
_NOT_FOUND: Final = 404
_DENIED: Final = frozenset({401, 403})
_CONFIGURATION: Final = "configuration"
_STATS: Final = "stats?subscriptionBacklogSize=false"


class Looker:
    """Looks for `keylane doctor`; `denied` and `unanswered` grow while it does."""

    def __init__(self, settings: Settings, admin: PulsarAdmin) -> None:
        self._settings = settings
        self._admin = admin
        self._topic = full_topic(settings.topic)
        self.denied: list[str] = []
        self.unanswered: list[str] = []

    async def ask(self, what: str, path: str) -> Any:
        """What is found at a path; None where there is nothing, or where it was refused."""
        try:
            answer = await self._admin.ask(path)
        except BrokerUnavailable:
            self.unanswered.append(what)
            return None
        return self._body(what, answer)

    async def ask_of(self, topic: str, what: str) -> Any:
        """The same of a topic."""
        try:
            answer = await self._admin.ask_of(topic, what)
        except BrokerUnavailable:
            self.unanswered.append(f"{what.partition('?')[0]} of {topic}")
            return None
        return self._body(what.partition("?")[0], answer)

    def _body(self, what: str, answer: Answer) -> Any:
        if answer.status in {_OK, _NO_CONTENT}:
            return answer.body
        if answer.status in _DENIED:
            # Only superusers may see that, and we need not be one.
            if what != _CONFIGURATION:
                self.denied.append(what)
        elif answer.status != _NOT_FOUND:
            self.unanswered.append(f"{what} ({answer.reason})")
        return None

    async def broker(self) -> BrokerSeen:
        """Raises `BrokerUnavailable`: without an answer about its version there is none."""
        before = time.time()
        answer = await self._admin.ask("brokers/version")
        its_clock = clock(answer.date, before, time.time())
        version = str(self._body("version", answer) or "unknown")
        (configuration, dynamic), (is_there, namespace) = await asyncio.gather(
            self._configuration(), self._namespace()
        )
        return BrokerSeen(
            version,
            its_clock,
            configuration,
            frozenset(dynamic),
            namespace,
            is_there,
            leftovers=await self._leftovers() if is_there else [],
        )

    async def _configuration(self) -> tuple[dict[str, str] | None, list[str]]:
        """What is in force, None if we may not see it, and what changes without a restart."""
        found, dynamic = await asyncio.gather(
            self.ask(_CONFIGURATION, "brokers/configuration/runtime"),
            self.ask(_CONFIGURATION, "brokers/configuration"),
        )
        return found, dynamic or []

    async def _namespace(self) -> tuple[bool, dict[str, Any] | None]:
        """Whether it is there, and its policies."""
        name = self._topic.removeprefix("persistent://").rpartition("/")[0]
        tenant = name.partition("/")[0]
        answer = await self._admin.ask(f"namespaces/{quote(tenant, safe='')}")
        there = self._body("namespaces", answer)
        if answer.status == _NOT_FOUND or (there is not None and name not in there):
            return False, None
        return True, await self.ask("namespace", f"namespaces/{quote(name)}")

    async def partitions(self, topic: str) -> int | None:
        """As `PulsarAdmin.partitions`; None also if we may not know."""
        found = await self.ask_of(topic, "partitions?checkAllowAutoCreation=false")
        return None if found is None else int(found["partitions"])

    async def topic(self, name: str) -> TopicSeen | None:
        """None if there is none, or if we may not look at it."""
        count = await self.partitions(name)
        if count is None:
            return None
        parts = [partition_topic(name, number) for number in range(count)] or [full_topic(name)]
        denied = len(self.denied)
        stats = await asyncio.gather(*(self.ask_of(part, _STATS) for part in parts))
        own = await self._policies(name, "")
        applied = await self._policies(name, "?applied=true")
        if len(self.denied) > denied:
            return TopicSeen(full_topic(name), count)
        return TopicSeen(
            full_topic(name), count, own, applied, dict(zip(parts, stats, strict=True))
        )

    async def _policies(self, topic: str, query: str) -> dict[str, Any]:
        found = await asyncio.gather(*(self.ask_of(topic, f"{name}{query}") for name in _READ))
        return dict(zip(_READ, found, strict=True))

    async def destination(self, name: str) -> DestinationSeen:
        dead, again = await asyncio.gather(
            self.topic(dead_letter_topic(self._topic, name)),
            self.topic(redrive_topic(self._topic, name)),
        )
        return DestinationSeen(name, dead, again)

    async def destinations(
        self, topic: TopicSeen, asked: Sequence[str]
    ) -> tuple[list[str], list[str]]:
        """The names of the destinations, and those of subscriptions that are none."""
        if asked:
            return list(dict.fromkeys(asked)), []
        known = dict.fromkeys(self._settings.destinations)
        others = []
        for name, found in topic.subscriptions().items():
            if name in known or name.startswith("__"):  # the broker's own
                continue
            if await self._looks_like_one(name, found):
                known[name] = None
            else:
                others.append(name)
        return list(known), others

    async def _looks_like_one(self, name: str, found: Sequence[Mapping[str, Any]]) -> bool:
        try:
            subscription_name(name)
        except ConfigurationError:
            return False
        if any(one["type"] == "Key_Shared" for one in found):
            return True
        return await self.partitions(dead_letter_topic(self._topic, name)) is not None

    async def _leftovers(self) -> list[str]:
        namespace = self._topic.removeprefix("persistent://").rpartition("/")[0]
        names = await self.ask("topics", f"persistent/{quote(namespace)}/partitioned")
        return abandoned(self._topic, names or [], time.time())

    async def samples(self, logs: PulsarLogs, topic: TopicSeen) -> dict[int, list[Sampled]]:
        """Raises `BrokerUnavailable`."""

        async def of(number: int, part: str) -> tuple[int, list[Sampled]]:
            internal = await self.ask_of(part, "internalStats")
            after = start_of_last(internal or {})
            return number, [] if after is None else await sample(logs, part, after)

        there = [part for part, stats in topic.parts.items() if stats is not None]
        found = await asyncio.gather(*(of(number, part) for number, part in enumerate(there)))
        return dict(found)


def clock(date: str, before_s: float, after_s: float) -> ClockSeen | None:
    """Compares a Date header, which tells whole seconds, with when it was asked for."""
    try:
        told = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    return ClockSeen(told - after_s, told + 1 - before_s)


async def try_access(logs: PulsarLogs, part: str) -> AccessSeen:
    """Connect a publisher that publishes nothing, and a reader that no subscription knows of."""

    async def refused(opening: Any) -> str | None:
        try:
            await opening
        except BrokerError as error:
            return str(error)
        return None

    name = f"keylane-doctor-{secrets.token_hex(4)}"
    produce, consume = await asyncio.gather(
        refused(logs.publisher(part, name)), refused(logs.reader(part))
    )
    return AccessSeen(produce, consume)


async def look(
    settings: Settings,
    asked: Sequence[str] = (),
    *,
    partitions: int | None = None,
    is_with_canary: bool = True,
    tell: Callable[[str], None] = lambda _line: None,
) -> Seen:
    """All that there is to see.

    Raises `BrokerUnavailable` if the broker's admin interface can't be reached at all.
    """
    patience_s = settings.pulsar.operation_timeout_s
    async with PulsarAdmin(settings.pulsar, deadline_s=patience_s) as admin:
        looker = Looker(settings, admin)
        tell("looking at the broker")
        broker = await looker.broker()
        lease_s = settings.dispatch.lease_s
        seen = Seen(broker, settings.topic, _now_ms(), lease_s, asked, partitions)
        if broker.is_namespace_there:
            tell(f"looking at {seen.full_name}")
            seen = await _topic_and_destinations(seen, looker, asked)
            tell("looking at the last messages")
            seen = await _producers(seen, looker, settings)
        if broker.is_namespace_there and is_with_canary:
            tell("sending a canary")
            seen = replace(seen, canary=await _canary(settings, admin))
    told = replace(
        seen.broker, denied=list(dict.fromkeys(looker.denied)), unanswered=looker.unanswered
    )
    return replace(seen, broker=told)


async def _topic_and_destinations(seen: Seen, looker: Looker, asked: Sequence[str]) -> Seen:
    denied = len(looker.denied)
    topic = await looker.topic(seen.topic_name)
    if topic is None:
        return replace(seen, is_topic_known=len(looker.denied) == denied)
    names, others = await looker.destinations(topic, asked)
    found = await asyncio.gather(*(looker.destination(name) for name in names))
    return replace(seen, topic=topic, destinations=found, others=others)


async def _producers(seen: Seen, looker: Looker, settings: Settings) -> Seen:
    if seen.topic is None and seen.is_topic_known:
        return seen
    there = [part for part, stats in seen.topic.parts.items() if stats] if seen.topic else []
    async with PulsarLogs(settings.pulsar) as logs:
        part = there[0] if there else partition_topic(seen.topic_name, 0)
        access = await try_access(logs, part)
        samples = {}
        if seen.topic is not None and access.consume is None:
            try:
                samples = await looker.samples(logs, seen.topic)
            except BrokerUnavailable as error:
                looker.unanswered.append(f"the last messages ({error})")
    return replace(seen, access=access, samples=samples, now_ms=_now_ms())


async def _canary(settings: Settings, admin: PulsarAdmin) -> CanarySeen:
    broker = PulsarBroker.of(settings.pulsar)
    try:
        return await fly(admin, broker, settings.topic)
    finally:
        await broker.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
