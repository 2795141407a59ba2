"""What was found, for people: a table of all checks, then each finding with what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from keylane.counted import counted
from operate.console import console
from operate.doctor.findings import Finding, Severity, counts

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.OK: "green"}


def show(findings: Sequence[Finding]) -> None:
    """Print all to standard output. Commands stand on lines of their own, never broken."""
    table = Table("severity", "check", "about", "found", box=box.SIMPLE_HEAD)
    for one in findings:
        style = _STYLES[one.severity]
        table.add_row(Text(one.severity.value, style), one.check, _short(one.subject), one.found)
    console().print(table)
    for one in findings:
        if one.severity is not Severity.OK:
            for line in _lines(one):
                console().print(line, soft_wrap=True)
    found = counts(findings)
    errors, warnings = found[Severity.ERROR], found[Severity.WARNING]
    console().print(
        f"{counted(errors, 'error')}, {counted(warnings, 'warning')}, "
        f"{found[Severity.OK]} checks are well."
    )


def as_json(topic: str, findings: Sequence[Finding]) -> dict[str, Any]:
    found = counts(findings)
    return {
        "topic": topic,
        "errors": found[Severity.ERROR],
        "warnings": found[Severity.WARNING],
        "findings": [one.as_json() for one in findings],
    }


def _lines(one: Finding) -> Iterator[str | Text]:
    yield Text(f"{one.severity.value.upper()} {one.check}", _STYLES[one.severity])
    yield f"  {one.subject}: {one.found}"
    yield f"  {one.consequence}"
    if one.mend.advice:
        yield f"  {one.mend.advice}"
    for line in (one.mend.command, one.mend.setting):
        if line:
            yield f"    {line}"
    yield ""


def _short(subject: str) -> str:
    return subject.removeprefix("persistent://")
