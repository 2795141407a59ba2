"""`keylane status`: asks the broker and all workers, and puts it together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from keylane.controlrecord import About, Key, UserRecord
from keylane.controlrecord import Standing as UserStanding
from keylane.errors import ConfigurationError, ContractError
from keylane.names import (
    DEAD_LETTER_SUBSCRIPTION,
    WHOLE,
    dead_letter_topic,
    full_topic,
    partition_topic,
    redrive_topic,
)
from keylane.questions import Kind
from operate.overseeing.overseer import Overseer, destinations_in, unknown
from operate.overseeing.pausing import pause_in
from operate.overseeing.standing import TOTALS, Backlog, Standing, workers_in

#: What a worker's answer has beside its report.
_ENVELOPE: Final = frozenset({"answer", "destination", "worker"})
#: Without these it is no report: anybody may speak there.
_NEEDED: Final = frozenset({*TOTALS, "oldest_head_s", "breaker", "disabled_because"})


async def standings(overseer: Overseer, names: Sequence[str] = ()) -> list[Standing]:
    """How these destinations stand, by default all that have a subscription.

    Raises `ConfigurationError` for a name that has none.
    """
    count = await overseer.partitions()
    parts = [partition_topic(overseer.topic, number) for number in range(count)]
    live = dict(enumerate(await asyncio.gather(*map(overseer.admin.stats, parts))))
    known = destinations_in(live[0])
    if wrong := [name for name in names if name not in known]:
        raise ConfigurationError(unknown(overseer.topic, wrong[0], known))
    chosen = list(dict.fromkeys(names)) or known
    again, dead = await asyncio.gather(
        asyncio.gather(*(_once_more(overseer, name) for name in chosen)),
        asyncio.gather(*(_dead_letters(overseer, name) for name in chosen)),
    )
    counted = {
        name: {n: part["subscriptions"].get(name) for n, part in live.items()} for name in chosen
    }
    statistics = {name: {**counted[name], WHOLE: again[i]} for i, name in enumerate(chosen)}
    reports = await _reports(overseer, statistics)
    return [
        Standing(
            name,
            Backlog(_by_partition(counted[name]), _backlog(again[index]) or 0, dead[index]),
            workers_in(statistics[name], reports.get(name, {})),
            _paused(overseer, name),
            _disabled(overseer, name),
            _users(overseer, name),
        )
        for index, name in enumerate(chosen)
    ]


async def _reports(
    overseer: Overseer, statistics: dict[str, dict[int, dict[str, Any] | None]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """What workers say of themselves, by destination and worker."""
    expected = {
        (name, worker.name)
        for name, parts in statistics.items()
        for worker in workers_in(parts, {})
    }
    if not expected:
        return {}
    only = next(iter(statistics)) if len(statistics) == 1 else None
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for told in await overseer.ask(Kind.STATUS, only, expected):
        report = {name: value for name, value in told.items() if name not in _ENVELOPE}
        if report.keys() >= _NEEDED:
            found.setdefault(str(told["destination"]), {})[str(told["worker"])] = report
    return found


def _by_partition(statistics: dict[int, dict[str, Any] | None]) -> list[dict[str, int]]:
    return [
        {
            "partition": number,
            "backlog": _backlog(one) or 0,
            "unacknowledged": int((one or {}).get("unackedMessages", 0)),
        }
        for number, one in statistics.items()
    ]


def _backlog(statistics: dict[str, Any] | None) -> int | None:
    return None if statistics is None else int(statistics["msgBacklog"])


async def _once_more(overseer: Overseer, name: str) -> dict[str, Any] | None:
    """The subscription's statistics on the destination's own topic, which most have not."""
    found = await _statistics(overseer, redrive_topic(overseer.topic, name))
    return found["subscriptions"].get(name) if found else None


async def _dead_letters(overseer: Overseer, name: str) -> int | None:
    topic = dead_letter_topic(overseer.topic, name)
    count = await overseer.admin.partitions(topic) or 0
    parts = [partition_topic(topic, number) for number in range(count)] or [topic]
    found = await asyncio.gather(*(_statistics(overseer, part) for part in parts))
    subscriptions = [one["subscriptions"].get(DEAD_LETTER_SUBSCRIPTION) for one in found if one]
    counts = [_backlog(one) for one in subscriptions]
    return None if not counts or None in counts else sum(one or 0 for one in counts)


async def _statistics(overseer: Overseer, topic: str) -> dict[str, Any] | None:
    """None if there is no such topic."""
    path = quote(full_topic(topic).replace("://", "/", 1))
    return await overseer.admin.get(f"{path}/stats?subscriptionBacklogSize=false")


def _paused(overseer: Overseer, name: str) -> dict[str, Any] | None:
    found = pause_in(overseer.control, name)
    return None if found is None else {"at": found.at, "live_only": found.live_only}


def _disabled(overseer: Overseer, name: str) -> dict[str, Any] | None:
    kept = overseer.control.kept.get(str(Key(name, About.DESTINATION)))
    if kept is None:
        return None
    try:
        found = orjson.loads(kept)
        return {"because": str(found["disabled"]), "at": str(found.get("at", ""))}
    except (ValueError, KeyError, TypeError, AttributeError):
        # Workers don't go by it either.
        return None


def _users(overseer: Overseer, name: str) -> dict[str, int]:
    """How many users stand otherwise than usual."""
    counts = Counter(_standings_in(overseer.control.of(name, About.USER).values()))
    return {one.value: counts[one.value] for one in UserStanding}


def _standings_in(records: Iterable[bytes]) -> Iterable[str]:
    for value in records:
        try:
            yield UserRecord.decoded(value).standing
        except ContractError:
            # Anybody may publish there.
            continue
