"""`keylane dlq purge`, `export`, `import` and `release` against a real broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from keylane.broker import OutgoingMessage
from keylane.controlrecord import Standing, UserRecord
from keylane.errors import ConfigurationError
from operate.deadletters.filters import Filters
from operate.deadletters.purging import purge_letters, release_users
from operate.deadletters.session import looking
from operate.exits import FAILED
from tests.deadletters import DeadLetters, Letter, letters
from tests.jsonforms import assert_is
from tests.rawtopic import read_raw
from tests.stage import MakeStage

pytestmark = [pytest.mark.real_broker, pytest.mark.timeout(120)]

HELD = UserRecord(Standing.HELD, "2026-01-31T12:00:00.000Z", reason="rejected")
PAYLOADS = [b'{"a":  1.50}', b" {}", b'"\xc3\xa9"', b"\xff\x00", b"", b"[1,\n2]", b"1e999", b"null"]


def answering(answer: bool, asked: list[str]) -> Callable[[str], bool]:
    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    return ask


async def test_a_purge_takes_what_matches_and_names_who_stays_held(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put([Letter("ada", 1, entry=1, reason="malformed"), *letters(["ada", "bob"], 2)])
    await crm.put([Letter("bob", 9, entry=9, reason="malformed")])
    await crm.say("ada", HELD)
    malformed, asked = Filters(reason=("malformed",)), list[str]()

    refused = await purge_letters(
        crm.settings, "crm", malformed, answering(False, asked), as_json=True
    )
    assert (refused, await crm.left()) == (FAILED, 6)
    assert "2 dead letters of 2 users" in asked[0]
    capsys.readouterr()
    code = await purge_letters(crm.settings, "crm", malformed, answering(True, asked), as_json=True)

    assert code == 0
    done = assert_is("dlq-purge", capsys.readouterr().out)
    assert (done["purged"], done["held_users"]) == (2, [{"user": "ada", "left": 2}])
    assert await crm.left() == 4
    assert (await crm.users())["ada"].standing == Standing.HELD


async def test_what_is_exported_purged_and_imported_is_as_it_was_and_there_once(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put(letters(["ada", "bob"], 2))
    await crm.put_messages(
        [OutgoingMessage(f"u-{n}", one, {"é": "x\ny"}) for n, one in enumerate(PAYLOADS)]
    )
    file = tmp_path / "crm.jsonl"

    await crm.run("export", "crm", str(file))
    assert await crm.left() == 12
    await purge_letters(crm.settings, "crm", Filters(), answering(True, []), as_json=True)
    first = await crm.dlq("import", "crm", str(file))
    assert_is("dlq-import", first)
    second = await crm.dlq("import", "crm", str(file))

    assert (first["imported"], first["imported_before"]) == (12, 0)
    assert (second["imported"], second["imported_before"]) == (0, 12)
    assert await crm.left() == 12
    all_there = await asyncio.to_thread(read_raw, crm.access.service_url, crm.topic)
    before, after = all_there[:12], all_there[12:]
    assert [(one.key, one.value, one.properties) for one in after] == [
        (one.key, one.value, one.properties) for one in before
    ]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["payload"] == {"user": "ada", "n": 1, "pad": ""}
    assert ["payload" in line for line in lines[4:]] == [
        *(True, False, True, False, False, False, False, True)
    ]


async def test_a_released_user_is_as_usual_and_keeps_the_dead_letters(
    make_stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    crm = DeadLetters(await make_stage("crm"))
    await crm.put(letters(["ada"], 2))
    await crm.say("ada", HELD)
    asked = list[str]()

    code = await release_users(
        crm.settings, "crm", ["ada", "bob"], answering(True, asked), as_json=True
    )

    assert code == 0
    done = assert_is("dlq-release", capsys.readouterr().out)
    stood = {one["user"]: one["was"] for one in done["users"]}
    assert stood == {"ada": "held", "bob": None}
    assert await crm.users() == {}
    assert await crm.left() == 2


async def test_a_destination_without_dead_letter_topic_is_a_configuration_error(
    make_stage: MakeStage,
) -> None:
    crm = DeadLetters(await make_stage("crm"))

    with pytest.raises(ConfigurationError, match="'cmr'"):
        async with looking(crm.settings, "cmr"):
            pass
