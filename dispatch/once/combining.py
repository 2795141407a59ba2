"""What an event came to, from what it came to at each channel: values in, a value out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from dispatch.outcome import (
    Delivered,
    Disabled,
    Failure,
    Forbidden,
    Malformed,
    Outcome,
    Refused,
    Unavailable,
    Withdrawn,
)

Kind = TypeVar("Kind")


def combined(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Delivered when every channel has it; given up only when no channel can get it any more.

    A channel that wants nothing more from anybody stops the destination, because its events would
    be missing there. One that is unavailable has the event tried again; those that are done or
    have refused are not asked then. If one was withdrawn all of it is, and those that are done are
    not asked again. A channel named '' is the only one and keeps its own words.
    """
    if len(outcomes) == 1 and "" in outcomes:
        return outcomes[""]
    if withdrawn := next((o for o in outcomes.values() if isinstance(o, Withdrawn)), None):
        return withdrawn
    failures = {name: o for name, o in outcomes.items() if isinstance(o, Failure)}
    if not failures:
        statuses = {o.status for o in outcomes.values()}
        return Delivered(statuses.pop() if len(statuses) == 1 else None)
    if disabled := _of(Disabled, failures):
        return Disabled(_reasons(disabled), _status(disabled), _answer(disabled))
    if unavailable := _of(Unavailable, failures):
        return _unavailable(unavailable, failures)
    return _given_up(failures)


def _unavailable(found: Mapping[str, Unavailable], failures: Mapping[str, Failure]) -> Unavailable:
    wishes = [o.retry_after_s for o in found.values() if o.retry_after_s is not None]
    return Unavailable(
        _reasons(failures),
        _status(found),
        retry_after_s=max(wishes, default=None),
        is_down=len(found) == len(failures) and all(o.is_down for o in found.values()),
        is_overload=any(o.is_overload for o in found.values()),
        answer=_answer(found),
    )


def _given_up(failures: Mapping[str, Failure]) -> Outcome:
    reasons, answer = _reasons(failures), _answer(failures)
    if refused := _of(Refused, failures):
        return Refused(reasons, _status(refused), answer)
    if _of(Forbidden, failures):
        return Forbidden(reasons, answer=answer)
    return Malformed(reasons, answer=answer)


def _of(kind: type[Kind], failures: Mapping[str, Failure]) -> dict[str, Kind]:
    return {name: o for name, o in failures.items() if isinstance(o, kind)}


def _reasons(failures: Mapping[str, Failure]) -> str:
    return "; ".join(f"{name}: {o.reason}" for name, o in failures.items())


def _status(failures: Mapping[str, Failure]) -> int | None:
    return next((o.status for o in failures.values() if o.status is not None), None)


def _answer(failures: Mapping[str, Failure]) -> str:
    """With its channel in front: what was said elsewhere stays in the log."""
    return next((f"{name}: {o.answer}" for name, o in failures.items() if o.answer), "")
