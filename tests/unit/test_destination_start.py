"""Where a new destination starts, as it is set."""

from __future__ import annotations

from pathlib import Path

import pytest

from keylane.settings import Source, load_settings
from keylane.sources import WrongSettings
from operate.destination import on_destination
from tests.commandline import alone

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")


def start_of(toml: str) -> str:
    Path("keylane.toml").write_text(f'[destinations.crm]\nto = "http://h"\n{toml}')
    return load_settings().destinations["crm"].start


@pytest.mark.parametrize(
    ("toml", "start"),
    [
        ("", "earliest"),
        ('start = "latest"', "latest"),
        ('start = "2026-01-31T06:00:00Z"', "2026-01-31T06:00:00Z"),
        # A time of TOML itself.
        ("start = 2026-01-31T06:00:00Z", "2026-01-31T06:00:00+00:00"),
        ("start = 2026-01-31", "2026-01-31"),
    ],
)
def test_a_destination_starts_at_the_earliest_event_unless_it_is_told(
    toml: str, start: str
) -> None:
    assert start_of(toml) == start


@pytest.mark.parametrize("toml", ['start = "newest"', 'start = "2h"', "start = 7"])
def test_what_is_no_place_to_start_is_refused(toml: str) -> None:
    with pytest.raises(
        WrongSettings, match=r"start.*(should be earliest, latest or a time|valid string)"
    ):
        start_of(toml)


def test_the_option_goes_before_the_file() -> None:
    start_of('start = "latest"')
    given = {"name": "crm", "to": None, "start": "2026-01-31"}

    assert on_destination(Source(None, {}), given).load().destinations["crm"].start == "2026-01-31"
    assert (
        on_destination(Source(None, {}), given | {"start": None}).load().destinations["crm"].start
        == "latest"
    )
