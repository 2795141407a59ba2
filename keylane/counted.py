"""Numbers of things, in words for people."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """`1 worker`, `2,000 workers`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
