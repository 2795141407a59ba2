"""`keylane config`: the effective settings, as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
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
        # What JSON writes of a string, a number or a boolean TOML reads as the same.
        written = json.dumps(value, ensure_ascii=False)
        yield f"# {_key(name)} is not set" if value is None else f"{_key(name)} = {written}"
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _lines(value, (*above, name))


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)
