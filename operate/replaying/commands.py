"""`keylane replay`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from keylane.settings import Settings
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, Dest, examples, moment
from operate.replaying.plan import words_of
from operate.replaying.window import Wanted

replay_app = typer.Typer()

_TIME: Final = "2h, 30m, 3d (ago) or RFC 3339; without a zone it is UTC"
_EPILOG: Final = examples(
    "keylane replay crm --from 2h --dry-run",
    "keylane replay crm --from 2026-01-31T06:00:00Z --to 2026-01-31T07:00:00Z --rate 200 --wait",
    "keylane replay crm --from 1d --user user-7 --type order.paid --instead",
    "keylane replay crm --list",
    "Exit codes: 0 done, 1 cancelled or refused, 2 usage (also: more than 10,000 events without "
    "--yes), 69 broker unavailable, 75 not confirmed by all workers or by the broker (run it "
    "again), 78 no such destination or replay, 130 interrupted. What was begun and did not end is "
    "gone on with by the same command, without a second copy.",
)


@replay_app.command("replay", epilog=_EPILOG)
@with_settings(*CONNECTION)
def replay(  # noqa: PLR0913, PLR0917  each is an option
    settings: Settings,
    destination: Dest,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="T", help=f"Events published from then on: {_TIME}."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="T", help="And before then.", show_default="now"),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="U", help="Only this user's.", show_default=False)
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", metavar="T", help="Only of this type.", show_default=False),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0.01, help="Events a second at most.", show_default="no limit"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count only; publish nothing.")
    ] = False,
    instead: Annotated[
        bool,
        typer.Option("--instead", help="Let live events wait meanwhile. Implies --wait."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="End only when everything is delivered.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask above 10,000 events.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List replays, and end.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on with this replay.", show_default=False),
    ] = None,
    cancel: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="End this replay; what is published is delivered.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Deliver events that the topic still keeps to one destination once more.

    Each user's in their order, beside live events. Counts first. Each copy carries the replay's
    id, which webhooks get as header keylane-replay.
    """
    from operate.replaying.session import Manner, Session, with_session

    modes = {"--list": show_list or None, "--resume": resume, "--cancel": cancel}
    window = {"--from": since, "--to": until, "--user": user, "--type": event_type}
    _check_together(_given(modes), _given(window))
    manner = Manner(rate, dry_run, instead, wait, yes, as_json)
    begin = None if _given(modes) else _begin(since, until, user, event_type)

    def work(session: Session) -> int:
        if begin is not None:
            return session.begin(*begin, manner)
        if show_list:
            return session.list(as_json=as_json)
        if cancel is not None:
            return session.cancel(cancel, as_json=as_json)
        return session.go_on_with(resume or "", manner)

    raise typer.Exit(with_session(settings, destination, work))


def _given(options: Mapping[str, str | bool | None]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _check_together(modes: list[str], window: list[str]) -> None:
    if len(modes) > 1 or (modes and window):
        raise typer.BadParameter(f"{' and '.join([*modes, *window])} don't go together")
    if not modes and "--from" not in window:
        raise typer.BadParameter(
            "say since when, or --list, --resume or --cancel", param_hint="--from"
        )


def _begin(
    since: str | None, until: str | None, user: str | None, event_type: str | None
) -> tuple[Wanted, tuple[str, str]]:
    """What is wanted, and the window as it was asked for."""
    now_ms = time.time_ns() // 1_000_000
    from_ms = moment("--from", since or "", now_ms)
    # What is published while it is counted is live.
    to_ms = min(now_ms, moment("--to", until, now_ms) if until else now_ms)
    if from_ms >= to_ms:
        raise typer.BadParameter("is not before --to, or is still to come", param_hint="--from")
    if "" in (user, event_type):
        raise typer.BadParameter("is empty", param_hint="--user" if user == "" else "--type")
    return Wanted(from_ms, to_ms, user, event_type), words_of(since or "", until)
