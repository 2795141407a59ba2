"""The archive of classes that a first broker leaves for those that come after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from operate.broker.archive import ClassArchive
from operate.broker.config import BrokerPorts, LaunchPlan
from operate.broker.standalone import StandaloneRun
from tests.waiting import until

#: Writes what it is told to at its end, as Java does, and notes the options it was started with.
PULSAR = r"""#!/bin/bash
echo "$PULSAR_EXTRA_OPTS" >> "$NOTES"
made=$(grep -o 'ArchiveClassesAtExit=[^ ]*' <<< "$PULSAR_EXTRA_OPTS" | cut -d= -f2)
trap '[ -z "$made" ] || echo classes > "$made"; exit 143' TERM
echo up
while :; do sleep 0.02; done
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Pulsar that only starts and ends, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    for folder in ("bin", "conf", "lib"):
        (tmp_path / "pulsar" / folder).mkdir(parents=True)
    (tmp_path / "pulsar" / "conf" / "standalone.conf").write_text("")
    program = tmp_path / "pulsar" / "bin" / "pulsar"
    program.write_text(PULSAR)
    program.chmod(0o755)
    return tmp_path / "pulsar"


@pytest.fixture
def java_home(tmp_path: Path) -> Path:
    (tmp_path / "java" / "lib").mkdir(parents=True)
    (tmp_path / "java" / "lib" / "modules").write_text("of Java")
    return tmp_path / "java"


async def play(home: Path, *, outlives_owner: bool = False, comes_up: bool = True) -> str:
    """Start a broker and end it; returns the options that Java got."""
    data = home.parent / "data"
    data.mkdir(exist_ok=True)
    plan = LaunchPlan(BrokerPorts(1, 2, 3), data, True, outlives_owner, {})
    run = StandaloneRun(home, plan)
    run.launch()
    await until(lambda: b"up" in run.log_file().read_bytes(), 10)
    if comes_up:
        run.came_up()
    run.end()
    return (home.parent / "notes").read_text().splitlines()[-1]


async def test_the_first_broker_leaves_an_archive_and_the_second_takes_it(home: Path) -> None:
    first = await play(home)
    second = await play(home)

    kept = list((home.parent / "cache" / "keylane" / "classes").iterdir())
    assert [path.read_text() for path in kept] == ["classes\n"]
    assert "-XX:ArchiveClassesAtExit=" in first
    assert f"-XX:SharedArchiveFile={kept[0]}" in second
    assert "AtExit" not in second


async def test_what_a_start_that_failed_has_loaded_is_not_kept(home: Path) -> None:
    await play(home, comes_up=False)

    assert "SharedArchiveFile" not in await play(home)


async def test_a_broker_of_the_background_takes_one_but_its_stop_does_not_wait_for_one(
    home: Path,
) -> None:
    alone = await play(home, outlives_owner=True)
    await play(home)
    after_another = await play(home, outlives_owner=True)

    assert "Archive" not in alone
    assert "-XX:SharedArchiveFile=" in after_another


async def test_below_a_folder_with_a_space_there_is_none_and_the_broker_starts_as_ever(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent / "my cache"))

    options = [await play(home) for _ in range(2)]

    assert not any("Archive" in words or "log4j" in words for words in options)
    assert not (home.parent / "my cache").exists()


def test_an_archive_of_before_an_update_does_not_count(home: Path, java_home: Path) -> None:
    archive = ClassArchive(home, java_home)
    (home.parent / "classes.jsa").write_text("classes")
    archive.keep(home.parent)
    assert archive.is_there()

    (java_home / "lib" / "modules").write_text("of a newer Java")

    assert not archive.is_there()


def test_another_java_has_another_archive(home: Path, java_home: Path) -> None:
    assert ClassArchive(home, java_home).file != ClassArchive(home, java_home.parent).file


def test_without_room_for_it_a_broker_ends_all_the_same(home: Path, java_home: Path) -> None:
    (home.parent / "classes.jsa").write_text("classes")
    (home.parent / "cache").write_text("a file where the folder should be")
    archive = ClassArchive(home, java_home)

    archive.keep(home.parent)

    assert not archive.is_there()
