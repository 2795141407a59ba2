"""What the commands print of dead letters: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import typer
from rich import box
from rich.table import Table

from keylane.counted import counted
from keylane.event import rfc3339
from operate.console import console
from operate.deadletters.groups import Group
from operate.deadletters.letter import DeadLetter, properties_of
from operate.deadletters.line import payload_of
from operate.deadletters.redrive import Done
from operate.when import age

#: Users that a sentence names.
_NAMED: Final = 10


def say_json(told: Mapping[str, Any]) -> None:
    typer.echo(orjson.dumps(told).decode())


def table_of(groups: Sequence[Group], now_ms: int) -> None:
    table = Table("reason", "user", "dead letters", "oldest", "newest", box=box.SIMPLE_HEAD)
    for one in groups:
        oldest, newest = (age(now_ms - at_ms) for at_ms in (one.oldest_ms, one.newest_ms))
        table.add_row(one.reason, one.user, f"{one.count:,}", oldest, newest)
    console().print(table)


def letter_data(letter: DeadLetter) -> dict[str, Any]:
    """Everything that is known of one, with its payload."""
    message = letter.content
    properties = properties_of(message)
    origin = letter.origin
    return {
        "position": letter.place.text,
        "origin": origin and ":".join(map(str, (origin.partition, *_shown(origin.position)))),
        "id": letter.id,
        "user": letter.user,
        "type": letter.type,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_attempt_at": properties.get("keylane-first-attempt-at") or None,
        "last_attempt_at": properties.get("keylane-last-attempt-at") or None,
        "last_status": letter.status,
        "last_error": properties.get("keylane-last-error") or None,
        "last_answer": properties.get("keylane-last-answer") or None,
        "dead_lettered_at": rfc3339(message.publish_time_ms),
        "properties": properties,
        **payload_of(message.value()),
    }


def _shown(position: tuple[int, int, int]) -> tuple[int, ...]:
    return position if position[2] >= 0 else position[:2]


def letter_text(letter: DeadLetter) -> str:
    """One dead letter for people, the payload at the end."""
    data = letter_data(letter)
    lines = [
        f"{name.replace('_', ' '):<17} {data[name]}"
        for name in data
        if name not in ("properties", "payload", "payload_base64") and data[name] is not None
    ]
    return "\n".join([*lines, "payload", _readable(letter.content.value())])


def _readable(payload: bytes) -> str:
    try:
        return orjson.dumps(orjson.loads(payload), option=orjson.OPT_INDENT_2).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return payload.decode(errors="backslashreplace")


def figures_of(done: Done, *, is_dry: bool) -> dict[str, Any]:
    """The same fields whether it was done or only counted."""
    figures = done.figures
    return {
        "token": None if is_dry else done.run.token,
        "filters": done.run.filters.as_data(),
        "dead_letters": figures.dead_letters,
        "events": figures.events,
        "users": figures.users,
        "duplicates": figures.duplicates,
        "foreign": figures.foreign,
        "held_users": len(done.run.whole),
        "sent_before": done.sent_before,
        "still_waiting": list(done.waiting),
        "in_shared_batches": done.torn,
    }


def redrive_lines(destination: str, done: Done, *, is_dry: bool) -> list[str]:
    """What a redrive did, or would do."""
    figures = done.figures
    verb = "Would redrive" if is_dry else "Redrove"
    users, letters = counted(figures.users, "user"), counted(figures.dead_letters, "dead letter")
    events = counted(figures.events, "event")
    lines = [f"{verb} {events} of {users} to {destination}, from {letters}."]
    if not figures.events:
        lines = [f"No dead letter that was asked for is left at {destination}."]
    if done.run.whole:
        held = counted(len(done.run.whole), "user")
        lines.append(f"{held} held, of whom every dead letter goes, whatever the filters say.")
    if figures.duplicates:
        lines.append(f"{counted(figures.duplicates, 'dead letter')} of events that have another.")
    if figures.foreign:
        lines.append(
            f"{counted(figures.foreign, 'dead letter')} without a place on this topic; last, in "
            "the order of the dead letters."
        )
    if done.torn:
        lines.append(
            f"{counted(done.torn, 'dead letter')} left: in one batch with others that were not "
            "asked for, and the broker can acknowledge only all of it."
        )
    if done.waiting:
        lines.append(
            f"Left for later: {names(done.waiting)}. An earlier redrive is still being delivered; "
            "run this again when it is through."
        )
    return lines


def finished_line(done: Done, *, is_dry: bool) -> str:
    """What is said of a run that an earlier command left unfinished."""
    verb = "would be finished first" if is_dry else "was finished first"
    sent = "" if is_dry else f" ({done.sent_before:,} were sent already)"
    return (
        f"A redrive of {done.run.at} {verb}: {counted(done.figures.events, 'event')} of "
        f"{counted(done.figures.users, 'user')} were left{sent}."
    )


def names(users: Sequence[str]) -> str:
    more = f" and {len(users) - _NAMED:,} more" if len(users) > _NAMED else ""
    return ", ".join(users[:_NAMED]) + more
