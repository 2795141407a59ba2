"""Options that choose dead letters, the same for each command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, get_type_hints

import typer

from operate.deadletters.filters import Filters, is_status
from operate.parameters import moment

_PANEL: Final = "Which dead letters (all have to hold)"


def _option(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=_PANEL)


#: By parameter; they are called otherwise than the options where Python has such a name.
_OPTIONS: Final[dict[str, Any]] = {
    "user": Annotated[
        list[str] | None, _option("--user", "U", "Of this user; repeatable, as the next four are.")
    ],
    "reason": Annotated[
        list[str] | None,
        _option("--reason", "R", "Given up for this: max-attempts, max-age, rejected, held, ..."),
    ],
    "status": Annotated[
        list[str] | None,
        _option("--status", "N", "Last answered so: 503, 5xx for a class, none for no answer."),
    ],
    "event_type": Annotated[list[str] | None, _option("--type", "T", "Of this event type.")],
    "event_id": Annotated[list[str] | None, _option("--id", "ID", "Of the event with this id.")],
    "since": Annotated[
        str | None,
        _option("--since", "T", "Last attempted then or later: 2026-01-31T12:00:00Z, or 2h ago."),
    ],
    "until": Annotated[
        str | None, _option("--until", "T", "Last attempted before that, written the same way.")
    ],
}


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; it has a parameter `filters`."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def filter_and_run(**given: Any) -> None:
        filters = _filters(**{name: given.pop(name) for name in _OPTIONS})
        command(filters=filters, **given)

    parameters = [
        one.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in signature.parameters.items()
        if name != "filters"
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    filter_and_run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # known to inspect
    filter_and_run.__annotations__ = {one.name: one.annotation for one in parameters}
    return filter_and_run


def _filters(
    *,
    user: Iterable[str] | None,
    reason: Iterable[str] | None,
    status: Iterable[str] | None,
    event_type: Iterable[str] | None,
    event_id: Iterable[str] | None,
    since: str | None,
    until: str | None,
) -> Filters:
    statuses = tuple(status or ())
    if wrong := [one for one in statuses if not is_status(one)]:
        raise typer.BadParameter(
            f"'{wrong[0]}' is no status: write 503, 5xx or none", param_hint="--status"
        )
    return Filters(
        user=tuple(user or ()),
        reason=tuple(reason or ()),
        status=statuses,
        type=tuple(event_type or ()),
        id=tuple(event_id or ()),
        since_ms=None if since is None else moment("--since", since),
        until_ms=None if until is None else moment("--until", until),
    )
