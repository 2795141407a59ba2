"""`keylane config`: the effective settings, as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(tree: Mapping[str, Any]) -> str:
    """Write nested dicts of plain values; what is not set stands there as a comment."""
    return "\n".join(_lines(tree, ())).strip() + "\n"


def _lines(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    leaves = {k: v for k, v in tree.items() if not isinstance(v, Mapping)}
    if leaves and above:
        yield f"\n[{'.'.join(map(_key, above))}]"
    for name, value in leaves.items():
        unset = f"# {_key(name)} is not set"
        yield unset if value is None else f"{_key(name)} = {_written(value)}"
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*above, name))


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, date | time):
        return value.isoformat()
    # What JSON writes of a string, a number or a boolean TOML reads as the same, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)
