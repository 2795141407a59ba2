"""`keylane dlq list|show|redrive|purge|export|import|release`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import typer

from keylane.counted import counted
from keylane.names import subscription_name
from keylane.settings import Settings
from operate.deadletters.filters import Filters
from operate.deadletters.options import with_filters
from operate.exits import FAILED, INTERRUPTED
from operate.options import CONNECTION, with_settings
from operate.parameters import AsJson, Dest, Yes, examples, need_terminal

T = TypeVar("T")

#: Groups, or dead letters, that are printed unless it is said how many.
_GROUPS: Final = 50
_LETTERS: Final = 10

dlq_app = typer.Typer(
    help="Look at the dead letters of a destination, redrive, purge, export and import them.",
    no_args_is_help=True,
)


@dlq_app.command(
    "list", epilog=examples("keylane dlq list crm", "keylane dlq list crm --since 2h --json")
)
@with_settings(*CONNECTION)
@with_filters
def list_letters(
    settings: Settings,
    filters: Filters,
    dest: Dest,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Show so many groups, the largest first.")
    ] = _GROUPS,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason and user, with their ages; nothing is taken away."""
    from operate.deadletters import shown
    from operate.deadletters.groups import Groups
    from operate.deadletters.session import looking
    from operate.progress import counting

    groups = Groups()

    async def count() -> None:
        async with looking(settings, subscription_name(dest)) as found:
            read = 0
            async for letter in found.view.letters():
                read += 1
                tell(read, None)
                if filters.match(letter):
                    groups.add(letter)

    with counting("dead letters read") as tell:
        _run(count())
    largest = groups.largest(limit)
    more = len(groups) - len(largest)
    if as_json:
        told = {
            "destination": dest,
            "dead_letters": groups.letters,
            "users": len(groups.users),
            "groups": [one.as_data() for one in largest],
            "more_groups": more,
        }
        shown.say_json(told)
        return
    if largest:
        shown.table_of(largest, time.time_ns() // 1_000_000)
    if more:
        typer.echo(f"{counted(more, 'group')} more; --limit shows them.")
    letters, users = counted(groups.letters, "dead letter"), len(groups.users)
    typer.echo(f"{letters} of {counted(users, 'user')} at {dest}.")


@dlq_app.command(
    epilog=examples(
        "keylane dlq show crm 01890a5d-ac96-774b-bcce-b302099a8057",
        "keylane dlq show crm --user user-4 --limit 3 --json",
    )
)
@with_settings(*CONNECTION)
@with_filters
def show(
    settings: Settings,
    filters: Filters,
    dest: Dest,
    which: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The event's id.", show_default=False)
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Show so many, the oldest there first.")
    ] = _LETTERS,
    as_json: AsJson = False,
) -> None:
    """Print dead letters with payload, attempts, last error and last answer."""
    from operate.deadletters import shown

    if which is not None:
        filters = replace(filters, id=(*filters.id, which))
    letters, matched = _run(_first(settings, dest, filters, limit))
    more = matched - len(letters)
    if as_json:
        data = [shown.letter_data(one) for one in letters]
        shown.say_json({"destination": dest, "dead_letters": data, "more": more})
    else:
        typer.echo("\n\n".join(map(shown.letter_text, letters)), nl=bool(letters))
        if more:
            typer.echo(f"{counted(more, 'dead letter')} more; --limit shows them.")
    if not letters:
        typer.echo(f"No dead letter of {dest} is like that.", err=True)
        raise typer.Exit(FAILED)


async def _first(
    settings: Settings, dest: str, filters: Filters, limit: int
) -> tuple[list[Any], int]:
    """So many that match, and how many do."""
    from operate.deadletters.session import looking

    letters, matched = [], 0
    async with looking(settings, subscription_name(dest)) as found:
        async for letter in found.view.letters():
            if filters.match(letter):
                matched += 1
                if matched <= limit:
                    letters.append(letter)
    return letters, matched


@dlq_app.command(
    epilog=examples(
        "keylane dlq redrive crm --reason max-attempts --dry-run",
        "keylane dlq redrive crm --user user-4 --rate 100 --wait",
    )
)
@with_settings(*CONNECTION)
@with_filters
def redrive(
    settings: Settings,
    filters: Filters,
    dest: Dest,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0.01, help="Events a second at most.", show_default="no limit"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the destination has got all of it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters to their destination again, and to no other.

    Each user's come in their original order, before what is still undelivered of that user, which
    waits for them. Killed or interrupted, the same command goes on: nothing is sent twice.
    """
    from operate.deadletters.redriving import Options, redrive_letters

    options = Options(rate=rate, is_dry=dry_run, is_waiting=wait, as_json=as_json)
    raise typer.Exit(_run(redrive_letters(settings, subscription_name(dest), filters, options)))


@dlq_app.command(
    epilog=examples(
        "keylane dlq purge crm --reason malformed",
        "keylane dlq purge crm --id 01890a5d-ac96-774b-bcce-b302099a8057 --yes",
    )
)
@with_settings(*CONNECTION)
@with_filters
def purge(
    settings: Settings, filters: Filters, dest: Dest, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Take dead letters away for good; `export` keeps them in a file before.

    A user who is held stays so: `keylane dlq release` lets the user's live events go on.
    """
    from operate.deadletters.purging import purge_letters

    need_terminal(yes)
    raise typer.Exit(
        _run(purge_letters(settings, subscription_name(dest), filters, _asker(yes), as_json))
    )


@dlq_app.command(
    epilog=examples(
        "keylane dlq export crm crm.jsonl",
        "keylane dlq export crm --user user-4 | jq .payload",
    )
)
@with_settings(*CONNECTION)
@with_filters
def export(
    settings: Settings,
    filters: Filters,
    dest: Dest,
    file: Annotated[
        Path, typer.Argument(metavar="[FILE|-]", help="Where to; - is standard output.")
    ] = Path("-"),
    yes: Annotated[bool, typer.Option("--yes", help="Replace a file that is there.")] = False,
) -> None:
    """Write dead letters as JSON lines, with payload, key and properties; none is taken away."""
    from operate.deadletters.session import looking
    from operate.deadletters.transfer import export as write
    from operate.progress import counting

    async def read(to: BinaryIO) -> int:
        async with looking(settings, subscription_name(dest)) as found:
            with counting("dead letters written") as tell:
                return await write(found, filters, to, tell)

    if file == Path("-"):
        count = _run(read(sys.stdout.buffer))
        sys.stdout.buffer.flush()
    else:
        if file.exists() and not yes:
            raise typer.BadParameter(f"{file} is there; --yes replaces it", param_hint="FILE")
        with _replacing(file) as to:
            count = _run(read(to))
    typer.echo(f"{count:,} dead letters of {dest} are written.", err=True)


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """What is there stays until all is written."""
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as to:
            yield to
        part.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    finally:
        part.unlink(missing_ok=True)


@dlq_app.command(
    "import",
    epilog=examples("keylane dlq import crm crm.jsonl", "keylane dlq import crm crm.jsonl --json"),
)
@with_settings(*CONNECTION)
def import_letters(
    settings: Settings,
    dest: Dest,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Put the dead letters of a file back onto their topic, each once.

    All lines are read first; if one is no dead letter nothing is done. Run again with the same
    file it goes on where it stopped.
    """
    from operate.deadletters import shown
    from operate.deadletters.session import looking
    from operate.deadletters.transfer import Imported, check, import_
    from operate.progress import counting

    async def put() -> Imported:
        async with looking(settings, subscription_name(dest)) as found:
            with counting("dead letters imported") as tell:
                return await import_(found, checked, tell)

    try:
        checked = check(file)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    done = _run(put())
    if as_json:
        told = {"destination": dest, "imported": done.new, "imported_before": done.there}
        shown.say_json(told)
        return
    typer.echo(f"{counted(done.new, 'dead letter')} of {file} are at {dest} now.")
    if done.there:
        typer.echo(f"{done.there:,} were put there by an import of this file before.")


@dlq_app.command(
    epilog=examples(
        "keylane dlq release crm --user user-4",
        "keylane dlq release crm --user user-4 --user user-5 --yes",
    )
)
@with_settings(*CONNECTION)
def release(
    settings: Settings,
    dest: Dest,
    user: Annotated[list[str], typer.Option(metavar="U", help="This user's; repeatable.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let live events of held users go on and leave their dead letters where they are.

    What is delivered from now on comes before those dead letters: the order is given up. To keep it
    use `redrive` instead.
    """
    from operate.deadletters.purging import release_users

    need_terminal(yes)
    raise typer.Exit(
        _run(release_users(settings, subscription_name(dest), user, _asker(yes), as_json))
    )


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Until its end, or the first Ctrl-C or SIGTERM."""
    from operate.interrupt import Interrupted, run

    try:
        return run(lambda interrupt: interrupt.unless(work))
    except Interrupted:
        typer.echo("Interrupted; the same command goes on from here.", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _asker(yes: bool) -> Any:
    return lambda question: yes or typer.confirm(question, err=True)
