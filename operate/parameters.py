"""Arguments and options that several commands have, and how they are read."""

from __future__ import annotations

import sys
import time
from typing import Annotated, TypeAlias

import typer

from operate.when import moment_of

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Dest: TypeAlias = Annotated[str, typer.Argument(metavar="DEST", help="The destination's name.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


def examples(*commands: str) -> str:
    """The end of a command's help; Typer makes a paragraph of each."""
    return "\n\n".join(("Examples:", *commands))


def need_terminal(yes: bool, to: str = "do it") -> None:
    """Raise `typer.BadParameter` if nobody can be asked, and it was not said beforehand."""
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(
            f"there is no terminal to ask on; say --yes to {to}", param_hint="--yes"
        )


def moment(option: str, text: str, now_ms: int | None = None) -> int:
    """Milliseconds since 1970 of what was given to this option; raises `typer.BadParameter`."""
    try:
        return moment_of(text, time.time_ns() // 1_000_000 if now_ms is None else now_ms)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
