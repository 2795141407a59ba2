"""Which events the code logs as warning or above, read from its source."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[1]
PACKAGES: Final = ("keylane", "ingest", "dispatch", "operate")
#: Methods of a log, and the level of their lines.
LEVELS: Final = {
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}


@functools.cache
def trees() -> list[tuple[str, ast.Module]]:
    """All modules of the product, by path."""
    paths = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    return [(str(p.relative_to(ROOT)), ast.parse(p.read_text(encoding="utf-8"))) for p in paths]


def level_of(function: ast.expr, writers: dict[str, set[str]]) -> set[str]:
    """The levels of a call's line; empty if it is no call of a log."""
    if isinstance(function, ast.Name):
        return writers.get(function.id, set())
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return set()
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return {LEVELS[function.attr]} if name.strip("_") in {"log", "logger"} else set()


def writers_in(tree: ast.Module) -> dict[str, set[str]]:
    """Names that stand for a method of a log: `write = log.warning if ... else log.info`."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or isinstance(node.value, ast.Call):
            continue
        levels = {level for part in ast.walk(node.value) for level in method_level(part)}
        for target in node.targets:
            if levels and isinstance(target, ast.Name):
                found.setdefault(target.id, set()).update(levels)
    return found


def method_level(node: ast.AST) -> set[str]:
    return level_of(node, {}) if isinstance(node, ast.expr) else set()


def pattern_of(argument: ast.expr) -> str:
    """The event's name; what the code puts into one is `*`."""
    if isinstance(argument, ast.JoinedStr):
        return "".join(map(pattern_of, argument.values))
    is_text = isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    return str(argument.value) if is_text and isinstance(argument, ast.Constant) else "*"


def events_in(path: str, tree: ast.Module) -> dict[str, tuple[str, set[str]]]:
    """Where each event of level warning and above is logged first, and at which levels."""
    found: dict[str, tuple[str, set[str]]] = {}
    writers = writers_in(tree)
    for node in ast.walk(tree):
        levels = level_of(node.func, writers) if isinstance(node, ast.Call) else set()
        if isinstance(node, ast.Call) and node.args and levels:
            known = found.setdefault(pattern_of(node.args[0]), (f"{path}:{node.lineno}", set()))
            known[1].update(levels)
    return found
