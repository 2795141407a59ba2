from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keylane.apikeys import State, UnknownKey, create_key, digest_of, read_keys
from keylane.errors import ConfigurationError
from operate.exits import exit_code_of
from operate.keys import DEFAULT_FILE, keys_app
from tests.commandline import alone

__all__ = ["alone"]
pytestmark = pytest.mark.usefixtures("alone")


def run(*arguments: str, code: int = 0, **variables: str) -> Result:
    done = CliRunner().invoke(keys_app, arguments, env=variables, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def answering(answer: str, *arguments: str) -> tuple[int, str]:
    """Run on a terminal where somebody answers; returns exit code and standard error."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb") as keyboard, os.fdopen(theirs, "rb") as terminal:
        keyboard.write(answer.encode() + b"\n")
        keyboard.flush()
        done = subprocess.run(
            [sys.executable, "-c", "from operate.keys import keys_app; keys_app()", *arguments],
            stdin=terminal,
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            text=True,
            timeout=15,
        )
    return done.returncode, done.stderr


def test_the_key_alone_is_on_standard_output() -> None:
    done = run("create", "shop")
    key = done.stdout.removesuffix("\n")

    (kept,) = read_keys(DEFAULT_FILE)
    assert key.startswith(f"kl_{kept.id}_")
    assert digest_of(key.split("_")[2].encode()).hex() == kept.sha256
    assert "not shown again" in done.stderr
    assert key not in done.stderr
    assert kept.id in done.stderr


def test_without_a_file_it_says_where_the_key_is() -> None:
    assert str(DEFAULT_FILE) in run("create", "shop").stderr
    assert str(DEFAULT_FILE) in run("list").stdout
    assert str(DEFAULT_FILE) in run("revoke", "shop", "--yes").stdout


def test_the_file_is_taken_from_the_option_else_from_the_environment(tmp_path: Path) -> None:
    run("create", "a", KEYLANE_INGEST__KEYS_FILE=str(tmp_path / "env.json"))
    run("create", "b", "--keys-file", "option.json", KEYLANE_INGEST__KEYS_FILE="env.json")

    assert [key.name for key in read_keys(tmp_path / "env.json")] == ["a"]
    assert [key.name for key in read_keys(tmp_path / "option.json")] == ["b"]
    assert not DEFAULT_FILE.exists()


def test_a_key_is_made_as_its_options_say() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    words = "create x --scope metrics:read --scope events:write --tenant acme --expires-in 2 --json"
    told = json.loads(run(*words.split()).stdout)
    run("create", "y", "--topic", "orders")

    x, y = read_keys(DEFAULT_FILE)
    assert list(x.scopes) == ["metrics:read", "events:write"]
    assert x.tenant == "acme"
    assert x.expires_at
    assert before <= x.expires_at - timedelta(days=2) <= datetime.now(UTC)
    assert told["id"] == x.id
    assert told["file"] == str(DEFAULT_FILE)
    assert told["key"].startswith(f"kl_{x.id}_")
    assert (y.topic, y.expires_at) == ("orders", None)
    assert list(y.scopes) == ["events:write", "notify:write"]


@pytest.mark.parametrize(
    "words",
    [
        "create x --tenant a --topic b",
        "create x --scope everything",
        "create x --expires-in 0",
        "create x --expires-in 99999999",
        "create",
        "revoke x",
    ],
)
def test_what_can_not_be_understood_ends_with_2_and_makes_nothing(words: str) -> None:
    run(*words.split(), code=2)

    assert not DEFAULT_FILE.exists()


def test_an_unfit_name_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="two words") as caught:
        run("create", "two words")
    assert exit_code_of(caught.value) == 78


def test_the_list_shows_each_key_but_neither_secrets_nor_hashes() -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    made = [
        create_key(DEFAULT_FILE, "one", tenant="acme", expires_at=soon),
        create_key(DEFAULT_FILE, "two", topic="orders", expires_at=past),
        create_key(DEFAULT_FILE, "three"),
    ]
    run("revoke", "three", "--yes")
    text, data = run("list").stdout, run("list", "--json").stdout

    rows = [line for line in text.splitlines() if any(new.key.id in line for new in made)]
    for row, words in zip(
        rows,
        [("one", "of tenant acme", "active"), ("two", "orders", "expired"), ("three", "revoked")],
        strict=True,
    ):
        assert all(word in row for word in (*words, "events:write")), row
    told: list[dict[str, Any]] = json.loads(data)["keys"]
    assert [key["state"] for key in told] == [State.ACTIVE, State.EXPIRED, State.REVOKED]
    assert [key["name"] for key in told] == ["one", "two", "three"]
    assert told[1]["expires_at"] == "2020-01-01T00:00:00Z"
    for new in made:
        for shown in (text, data):
            assert new.text.split("_")[2] not in shown
            assert new.key.sha256 not in shown


def test_a_list_of_a_file_that_is_not_there_says_how_to_make_it() -> None:
    with pytest.raises(ConfigurationError, match="keys create"):
        run("list")


def test_revoking_by_id_leaves_the_others_of_the_name() -> None:
    old, new = create_key(DEFAULT_FILE, "shop").key, create_key(DEFAULT_FILE, "shop").key
    told = run("revoke", old.id, "--yes").stdout

    assert old.id in told
    assert new.id not in told
    assert [bool(key.revoked_at) for key in read_keys(DEFAULT_FILE)] == [True, False]


def test_revoking_by_name_revokes_all_of_it() -> None:
    made = [create_key(DEFAULT_FILE, name).key for name in ("shop", "shop", "crm")]
    told = run("revoke", "shop", "--yes").stdout

    assert [key.id in told for key in made] == [True, True, False]
    assert [bool(key.revoked_at) for key in read_keys(DEFAULT_FILE)] == [True, True, False]


def test_revoking_twice_is_fine_and_says_so() -> None:
    create_key(DEFAULT_FILE, "shop")

    assert "already" not in run("revoke", "shop", "--yes").stdout
    assert "already" in run("revoke", "shop", "--yes").stdout


def test_revoking_an_unknown_key_fails() -> None:
    create_key(DEFAULT_FILE, "shop")

    with pytest.raises(UnknownKey, match="crm") as caught:
        run("revoke", "crm", "--yes")
    assert exit_code_of(caught.value) == 1


def test_without_a_terminal_nothing_is_revoked_unasked() -> None:
    create_key(DEFAULT_FILE, "shop")

    assert "--yes" in run("revoke", "shop", code=2).stderr
    assert read_keys(DEFAULT_FILE)[0].revoked_at is None


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks(answer: str, code: int) -> None:
    made = create_key(DEFAULT_FILE, "shop").key
    ended_with, asked = answering(answer, "revoke", "shop")

    assert ended_with == code
    assert f"Revoke shop ({made.id})" in asked
    assert bool(read_keys(DEFAULT_FILE)[0].revoked_at) == (code == 0)
