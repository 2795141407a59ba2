"""The runbook has every name that somebody may be woken by, and none that doesn't exist.

When one fails, it says which line is missing in docs/runbook.md, or has to go.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from dispatch.retry import Reason
from ingest import problems
from keylane.settings import all_settings
from operate import exits
from tests.commandline import commands, parse
from tests.logevents import ROOT, events_in, pattern_of, trees

RUNBOOK = "docs/runbook.md"
TEXT = (ROOT / RUNBOOK).read_text(encoding="utf-8")
#: A name, or a pattern where the code makes a name; and where it stands.
Names: TypeAlias = dict[str, str]


def rows(name: str) -> list[list[str]]:
    """The cells below the heading of the table with this marker."""
    _, marker, rest = TEXT.partition(f"<!-- table: {name} -->\n")
    assert marker, f"{RUNBOOK} has no table {name}"
    lines = rest.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def named(table: str) -> list[str]:
    """The first cells, in their order."""
    return [row[0].strip("`") for row in rows(table)]


def assert_same(table: str, found: Iterable[str], where: Names) -> None:
    """`where` has what there is in the code, `found` what the table has."""
    missing = sorted(set(where) - set(found))
    gone = sorted(set(found) - set(where))
    lacking = "".join(f"\n  no line for {name} ({where[name]})" for name in missing)
    surplus = "".join(f"\n  a line for {name}, which is nowhere" for name in gone)
    assert not missing + gone, f"{RUNBOOK}, table {table}:{lacking}{surplus}"


# Lines of the log


@functools.cache
def logged() -> tuple[Names, dict[str, set[str]]]:
    """The same of all the code."""
    where: Names = {}
    levels: dict[str, set[str]] = {}
    for path, tree in trees():
        for name, (place, at) in events_in(path, tree).items():
            where.setdefault(name, place)
            levels.setdefault(name, set()).update(at)
    return where, levels


def expanded(where: Names, documented: Iterable[str]) -> Names:
    """With the names of the table that fit it in place of each pattern that has any."""
    found: Names = {}
    for name, place in where.items():
        fitting = re.compile(re.escape(name).replace(r"\*", r"[\w-]+"))
        names = [one for one in documented if fitting.fullmatch(one)] if "*" in name else []
        found.update(dict.fromkeys(names or [name], place))
    return found


def test_it_has_a_line_for_each_event_that_is_logged_as_warning_or_above() -> None:
    where, _ = logged()
    documented = named("events")

    assert_same("events", documented, expanded(where, documented))
    assert documented == sorted(documented)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('log.warning("a.b", x=1)', {"a.b"}),
        ('self._log.exception("a.b")', {"a.b"}),
        ('log.info("a.b")', set()),
        ('answer.error("a.b")', set()),
        ('log.error(f"a.{what}")', {"a.*"}),
        ('write = log.error if bad else log.info\nwrite("a.b")', {"a.b"}),
        ("log.error(text)", {"*"}),
    ],
)
def test_an_event_is_found_however_it_is_written(source: str, names: set[str]) -> None:
    assert set(events_in("a.py", ast.parse(source))) == names


def test_the_lines_of_events_tell_their_level() -> None:
    _, levels = logged()
    documented = {row[0].strip("`"): row[1] for row in rows("events")}
    wrong = [
        f"{name} is logged as {', '.join(sorted(levels[name], reverse=True))}, not {told}"
        for name, told in documented.items()
        if name in levels and set(told.split(", ")) != levels[name]
    ]

    assert wrong == []


def test_a_name_that_the_code_puts_together_stands_for_all_that_fit() -> None:
    assert expanded({"lane.*": "a:1"}, ["lane.skip", "lane.full.x"]) == {"lane.skip": "a:1"}
    assert expanded({"lane.*": "a:1"}, ["other"]) == {"lane.*": "a:1"}


# Readiness


def reasons_in(function: ast.AST) -> Iterator[str]:
    """Texts of a function but for its docstring and its decorators, up to what is put in."""
    body = getattr(function, "body", [])
    is_documented = bool(body) and isinstance(body[0], ast.Expr)
    pending: list[ast.AST] = list(body[1:] if is_documented else body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.JoinedStr):
            first = node.values[0]
            yield f"{pattern_of(first)}*"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            pending += ast.iter_child_nodes(node)


def test_it_has_each_reason_for_not_being_ready() -> None:
    where: Names = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if getattr(node, "name", "") in {"unready_reasons", "readyz"}:
                where.update(dict.fromkeys(reasons_in(node), path))
    documented = [re.sub(r"\.\.\.$", "*", name) for name in named("readiness")]

    assert_same("readiness", documented, where)


# Codes, problems, reasons


def test_it_has_each_exit_code() -> None:
    where = {
        str(value): f"operate/exits.py: {name}"
        for name, value in vars(exits).items()
        if name.isupper() and isinstance(value, int)
    }

    assert_same("exits", named("exits"), where)


def test_it_has_each_problem_with_its_status() -> None:
    where = {f"{kind.name} {kind.status}": "ingest/problems.py" for kind in problems.KINDS}
    documented = [f"{row[0].strip('`')} {row[1]}" for row in rows("problems")]

    assert_same("problems", documented, where)


def test_it_has_each_reason_of_a_dead_letter() -> None:
    assert_same("reasons", named("reasons"), dict.fromkeys(map(str, Reason), "dispatch/retry.py"))


# Alarms


def rules() -> list[tuple[str, str]]:
    """Each alarm with its expression."""
    block = TEXT.partition("```yaml\n")[2].partition("```")[0]
    return [
        (one.partition("\n")[0].strip(), one.partition("expr:")[2].partition("for:")[0])
        for one in block.split("- alert:")[1:]
    ]


def test_each_alarm_has_a_line_and_each_line_an_alarm() -> None:
    assert_same("alarms", named("alarms"), dict(rules()))


def test_alarms_look_at_metrics_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    # That this table is complete, and its labels right, is tested beside the readme.
    table = readme.partition("<!-- table: metrics -->\n")[2].split("\n\n")[0]
    known = dict(re.findall(r"^\| `(keylane_\w+)` \| [^|]* \| ([^|]*) \|", table, re.MULTILINE))

    for alarm, expression in rules():
        assert expression.count("(") == expression.count(")"), alarm
        for metric, labels in re.findall(r"\b(keylane_\w+)(?:\{([^}]*)\})?", expression):
            name = re.sub(r"_(bucket|sum|count)$", "", metric)
            assert name in known, f"{alarm}: no metric {name}"
            for label in re.findall(r"(\w+)\s*[=!]", labels):
                assert f"`{label}`" in known[name], f"{alarm}: {name} has no label {label}"


# What is to be run


def test_every_command_that_it_names_is_one_that_keylane_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    for document in (RUNBOOK, "docs/pulsar-admin.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for line in re.findall(r"`keylane ([^`]+)`", text):
            words = ["2h" if word == "T" else word for word in line.split()]
            if " ".join(words) not in {*commands(), "lane dead-letter"}:
                parse(words)


def test_every_setting_that_it_names_exists() -> None:
    known = {".".join(path) for path in all_settings()}
    found = set(re.findall(r"`(ingest\.\w+)", TEXT))

    assert sorted(found - known) == []
