"""Reads a `keylane` command line as the command itself would, without running it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.core import TyperGroup
from typer.main import get_command

from operate.cli import app


@functools.cache
def keylane() -> Any:
    """The command; making it out of its functions takes a while."""
    return get_command(app)


def parse(words: Sequence[str]) -> None:
    """Raise unless `keylane` followed by these words is something it takes."""
    command = keylane()
    rest = list(words)
    name = "keylane"
    while isinstance(command, TyperGroup):
        name = rest.pop(0)
        assert name in command.commands, f"keylane has no command {name}"
        command = command.commands[name]
    command.make_context(name, rest)


def commands() -> dict[str, Any]:
    """Every command by its full name, such as `topic setup`."""
    return dict(_commands(keylane(), ()))


def _commands(command: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if not isinstance(command, TyperGroup):
        yield " ".join(above), command
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, (*above, name))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder and an environment without settings; the log is afterwards as it was."""
    for name in os.environ:
        if name.upper().startswith("KEYLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with log_left_as_found():
        yield


@contextlib.contextmanager
def log_left_as_found() -> Iterator[None]:
    """What logs is afterwards what it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
