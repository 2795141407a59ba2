"""Secrets by reference: where one is, instead of what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_ENVIRONMENT: Final = "env:"
_FILE: Final = "file:"


def reveal(value: object) -> object:
    """What `env:NAME` or `file:PATH` points to, without white space around it; else the value.

    Raises `ValueError`, which names the reference and never a secret.
    """
    if not isinstance(value, str):
        return value
    if value.startswith(_ENVIRONMENT):
        name = value.removeprefix(_ENVIRONMENT)
        return _there(os.environ.get(name, ""), f"the variable {name} is not set, or empty")
    if path := file_of(value):
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path} can't be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8") from error
        return _there(text, f"{path} is empty")
    return value


def file_of(reference: str) -> Path | None:
    """The path in `file:PATH`, also written `file:///PATH`; None for anything else."""
    if not reference.startswith(_FILE):
        return None
    return Path(reference.removeprefix(_FILE).removeprefix("//"))


def _there(text: str, complaint: str) -> str:
    if not text.strip():
        raise ValueError(complaint)
    return text.strip()
