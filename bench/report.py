"""The table for people and the JSON for programs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from bench.figures import Figure
from bench.scale import PARTITIONS, USERS, Scale

#: Of the JSON's layout; grows when a reader of it would have to change.
VERSION: Final = 1
_HEADINGS: Final = ("", "Keylane", "", "yardstick", "", "ratio", "")
_ALIGNMENTS: Final = "<><><><"


def as_tree(
    figures: Sequence[Figure], machine: Mapping[str, Any], scale: Scale, seconds: float
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "machine": {**machine, "load_average_at_end": round(os.getloadavg()[0], 2)},
        "settings": {**asdict(scale), "users": USERS, "partitions": PARTITIONS},
        "seconds": round(seconds, 1),
        "figures": [_figure(figure) for figure in figures],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "section": figure.section,
        "name": figure.name,
        "unit": figure.unit,
        "value": _known(figure.value),
        "rounds": [_known(value) for value in figure.rounds],
        "better": "higher" if figure.is_more_better else "lower",
    }
    if figure.yardstick:
        tree["yardstick"] = {
            "name": figure.yardstick,
            "value": _known(figure.yardstick_value),
            "rounds": [_known(value) for value in figure.yardstick_rounds],
        }
        tree["ratio"] = _known(figure.ratio)
    if limits := _limits(figure):
        tree["accepted"] = {**limits, "is_met": figure.is_accepted}
    if figure.details:
        tree["details"] = {name: _known(value) for name, value in figure.details.items()}
    return tree


def _limits(figure: Figure) -> dict[str, float]:
    limits = {
        "ratio_at_least": figure.at_least,
        "ratio_at_most": figure.at_most,
        "value_at_most": figure.value_at_most,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def as_table(figures: Sequence[Figure], machine: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [_HEADINGS]
    section = ""
    for figure in figures:
        if figure.section != section:
            section = figure.section
            rows += [("",) * len(_HEADINGS), (section, *("",) * (len(_HEADINGS) - 1))]
        rows.append(_row(figure))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    return "\n".join([*_lines(rows, widths), "", facts])


def _lines(rows: Iterable[tuple[str, ...]], widths: Sequence[int]) -> list[str]:
    return [
        "  ".join(
            f"{cell:{alignment}{width}}"
            for cell, alignment, width in zip(row, _ALIGNMENTS, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        f"  {figure.name}",
        number(figure.value),
        figure.unit,
        number(figure.yardstick_value) if figure.yardstick else "",
        figure.yardstick,
        number(figure.ratio, 2) if figure.yardstick else "",
        _verdict(figure),
    )


def _verdict(figure: Figure) -> str:
    limits = [
        f"{name.partition('_')[2].replace('_', ' ')} {limit:g}"
        for name, limit in _limits(figure).items()
    ]
    if not limits:
        return ""
    return f"{'met' if figure.is_accepted else 'MISSED'}: {', '.join(limits)}"


def number(value: float, places: int = 1) -> str:
    """Whole from 1,000 on; `-` for what is not known."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{places}f}"
