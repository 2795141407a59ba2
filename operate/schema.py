"""`keylane schema check|validate`: schemas of payloads, before they are put to work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer

from ingest.schemas.compatibility import Break, Report, Verdict, compare
from ingest.schemas.files import load_file
from ingest.schemas.violations import PayloadSchema, Violation, pointer, violations_of
from operate.eventfile import READ_BYTES, Element, Lines
from operate.exits import BAD_DATA, FAILED
from operate.parameters import AsJson, examples

#: Of one payload no more is told than this.
_MAX_PROBLEMS: Final = 10
#: Nor of more payloads than this in JSON.
_MAX_TOLD: Final = 1_000

schema_app = typer.Typer(
    help="Check schemas of payloads: JSON Schema (.json), Avro (.avsc), Protobuf (.desc).",
    no_args_is_help=True,
)


def _schema_file(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, exists=True, dir_okay=False, readable=True, help=text)


@schema_app.command(
    epilog=examples(
        "keylane schema check order.json order-new.json",
        "keylane schema check v1/order.avsc v2/order.avsc --json",
    )
)
def check(
    old: Annotated[Path, _schema_file("OLD", "The version in use.")],
    new: Annotated[Path, _schema_file("NEW", "The version that is to follow.")],
    as_json: AsJson = False,
) -> None:
    """Tell whether NEW accepts everything that OLD accepted; exits with 0 if so, else with 1.

    What can't be decided counts as a break.
    """
    report = compare(load_file(old), load_file(new))
    if as_json:
        typer.echo(json.dumps(_as_data(report)))
    else:
        typer.echo("\n".join(_report_lines(report)))
    if report.backward:
        raise typer.Exit(FAILED)


@schema_app.command(
    epilog=examples(
        "keylane schema validate schemas/order.json payloads.jsonl",
        "tail -n 100 payloads.jsonl | keylane schema validate schemas/order.json - --json",
    )
)
def validate(
    schema: Annotated[Path, _schema_file("SCHEMA", "The schema.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE|-", help="Payloads as JSON lines; - is standard input."),
    ],
    as_json: AsJson = False,
) -> None:
    """Check payloads against a schema; exits with 0 if all fit, else with 65.

    With Avro and Protobuf too the payloads are written as JSON: an Avro record with unions
    untagged, a Protobuf message in its JSON form.
    """
    against = load_file(schema)
    checked = unfit = 0
    told: list[dict[str, Any]] = []
    with _opened(file) as source:
        for element in _elements(source):
            checked += 1
            problems = _problems(element, against)
            unfit += bool(problems)
            for path, detail in problems:
                if not as_json:
                    typer.echo(f"line {element.number}: {pointer(path) or '/'} {detail}")
                elif len(told) < _MAX_TOLD:
                    told.append({"line": element.number, "path": pointer(path), "detail": detail})
    if as_json:
        typer.echo(json.dumps({"checked": checked, "unfit": unfit, "errors": told}))
    else:
        typer.echo(f"{checked} checked, {unfit} unfit.")
    if unfit:
        raise typer.Exit(BAD_DATA)


def _report_lines(report: Report) -> Iterator[str]:
    yield f"compatibility: {report.verdict}"
    for name, found, reader, writer in (
        (Verdict.BACKWARD, report.backward, "NEW", "OLD"),
        (Verdict.FORWARD, report.forward, "OLD", "NEW"),
    ):
        if not found:
            yield f"{name}: {reader} accepts everything that {writer} accepts"
            continue
        fails = "does not" if any(one.is_certain for one in found) else "may not"
        yield f"not {name}: {reader} {fails} accept everything that {writer} accepts"
        yield from _break_lines(found)


def _break_lines(found: Sequence[Break]) -> Iterator[str]:
    width = max(len(one.path) for one in found)
    for path, why, is_certain in found:
        yield f"  {path:<{width}}  {'' if is_certain else 'unknown: '}{why}"


def _as_data(report: Report) -> dict[str, Any]:
    def told(found: Sequence[Break]) -> list[dict[str, Any]]:
        return [{"path": one.path, "why": one.why, "certain": one.is_certain} for one in found]

    return {
        "compatibility": report.verdict,
        "language": report.language,
        "backward": told(report.backward),
        "forward": told(report.forward),
    }


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == Path("-"):
        yield sys.stdin.buffer
        return
    try:
        source = file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"{file} can't be read ({error.strerror}).") from error
    with source:
        yield source


def _elements(source: BinaryIO) -> Iterator[Element]:
    lines = Lines()
    while data := source.read(READ_BYTES):
        yield from lines.feed(data)
    yield from lines.finish()


def _problems(element: Element, schema: PayloadSchema) -> list[Violation]:
    if element.fault is not None:
        return [Violation((), element.fault)]
    return violations_of(schema.violations_in_json, element.raw, _MAX_PROBLEMS)
