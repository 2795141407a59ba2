"""`keylane send`: the file, the progress on the way, and the report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import typer

from keylane.errors import ConfigurationError
from operate.progress import watching
from operate.send import Report, send_file


def send_and_report(
    path: Path, url: str, start_at: int, give_up_after_s: float, *, as_json: bool
) -> int:
    """Send the file and print what became of it; returns the exit code."""
    with _opened(path) as (file, size), watching(size) as watch:
        report = send_file(file, url, watch, start_at=start_at, give_up_after_s=give_up_after_s)
    typer.echo(json.dumps(report.as_dict()) if as_json else _told(report))
    if report.stopped:
        typer.echo(f"keylane: {_how_to_go_on(report, path)}", err=True)
    return report.exit_code


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    if str(path) == "-":
        yield sys.stdin.buffer, None
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read ({error.strerror}); nothing was sent."
        ) from error
    with file:
        yield file, path.stat().st_size or None


def _told(report: Report) -> str:
    lines = [f"{report.unit} {r.number}: {r.reason}" for r in report.refused]
    counts = f"accepted {report.accepted}, refused {len(report.refused)}"
    return "\n".join([*lines, counts])


def _how_to_go_on(report: Report, path: Path) -> str:
    return (
        f"{report.stopped} {report.accepted} events are accepted; left is everything from "
        f"{report.unit} {report.resume_at} on, of which a few may be stored already. Go on with "
        f"`keylane send {path} --start-at {report.resume_at}`."
    )
