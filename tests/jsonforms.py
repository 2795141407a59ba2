"""The documented JSON forms (docs/json), and whether what a command printed is one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[1] / "docs" / "json"


def names() -> list[str]:
    """Of all forms, such as `dlq-list`."""
    return sorted(path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json"))


@cache
def form(name: str) -> dict[str, Any]:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert isinstance(schema, dict)
    return schema


def assert_is(name: str, output: str | bytes | dict[str, Any]) -> dict[str, Any]:
    """Fail unless this is exactly one JSON object of that form; returns it."""
    found = output if isinstance(output, dict) else json.loads(output)
    faults = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(form(name)).iter_errors(found)
    ]
    assert not faults, f"this is no {name}:\n" + "\n".join(faults)
    assert isinstance(found, dict)
    return found
