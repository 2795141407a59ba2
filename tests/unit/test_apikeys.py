from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from keylane.apikeys import (
    Key,
    Scope,
    State,
    UnknownKey,
    create_key,
    digest_of,
    find_keys,
    read_keys,
    revoke,
    split_key,
)
from keylane.errors import ConfigurationError

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def secret_of(text: str) -> str:
    return text.split("_")[2]


def tamper(path: Path, **fields: Any) -> None:
    """Change fields of the first key on file."""
    tree = msgspec.json.decode(path.read_bytes())
    tree["keys"][0] |= fields
    path.write_bytes(msgspec.json.encode(tree))


def test_a_key_has_256_random_bits_and_the_file_only_their_hash(path: Path) -> None:
    made = create_key(path, "shop")

    found = re.fullmatch(r"kl_([0-9a-f]+)_([0-9a-f]{64})", made.text)
    assert found
    assert found[1] == made.key.id
    assert made.key.sha256 == digest_of(found[2].encode()).hex()
    assert found[2] not in path.read_text()
    assert read_keys(path) == (made.key,)


def test_two_keys_differ_in_id_and_secret(path: Path) -> None:
    first, second = create_key(path, "shop"), create_key(path, "shop")

    assert first.key.id != second.key.id
    assert secret_of(first.text) != secret_of(second.text)
    assert [key.name for key in read_keys(path)] == ["shop", "shop"]


def test_neither_secret_nor_hash_is_in_a_repr(path: Path) -> None:
    made = create_key(path, "shop")

    shown = repr(made) + repr(made.key) + repr(read_keys(path))
    assert "shop" in shown
    assert secret_of(made.text) not in shown
    assert made.key.sha256 not in shown


def test_a_new_file_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        create_key(path, "shop")
    finally:
        os.umask(before)

    assert mode_of(path) == 0o600


def test_a_group_that_could_read_the_file_still_can(path: Path) -> None:
    create_key(path, "shop")
    path.chmod(0o644)
    create_key(path, "shop")

    assert mode_of(path) == 0o640


def test_a_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    create_key(path, "shop")
    link = tmp_path / "link.json"
    link.symlink_to(path)
    create_key(link, "crm")

    assert link.is_symlink()
    assert len(read_keys(path)) == 2


def test_keys_made_at_once_are_all_kept_and_no_reader_sees_a_part(path: Path) -> None:
    create_key(path, "first")
    with ThreadPoolExecutor(8) as pool:
        making = [pool.submit(create_key, path, f"n{number}") for number in range(24)]
        while not all(made.done() for made in making):
            read_keys(path)

    assert {key.id for key in read_keys(path)[1:]} == {made.result().key.id for made in making}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_key(path, "shop")
    before, names = path.read_bytes(), set(path.parent.iterdir())

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigurationError, match="No space"):
        create_key(path, "crm")
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == names


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "keys.json"

    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        create_key(path, "shop")


def test_a_file_that_is_not_there_says_how_to_make_it(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keylane keys create") as caught:
        read_keys(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "keys": []}',
        b'{"version": 1}',
        b'{"version": 1, "keys": [], "more": 1}',
        b'{"version": 1, "keys": "\xff"}',
        b'{"version": 1, "keys": ' + b"[" * 100_000,
    ],
)
def test_a_broken_file_is_named_and_kept_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    for use in (lambda: read_keys(path), lambda: create_key(path, "shop")):
        with pytest.raises(ConfigurationError, match="broken") as caught:
            use()
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "no hex"},
        {"name": ""},
        {"sha256": "00"},
        {"scopes": ["events:wriet"]},
        {"tenant": "acme", "topic": "orders"},
        {"tenant": "a/b"},
        {"topic": "a/b"},
        {"created_at": "2026-01-02T03:04:05"},
        {"expires_at": "tomorrow"},
        {"scpoes": []},
    ],
)
def test_a_key_that_makes_no_sense_breaks_the_file(path: Path, fields: dict[str, Any]) -> None:
    made = create_key(path, "shop")
    tamper(path, **fields)

    with pytest.raises(ConfigurationError, match="broken") as caught:
        read_keys(path)
    assert made.key.sha256 not in str(caught.value)


def test_two_keys_of_one_id_break_the_file(path: Path) -> None:
    create_key(path, "shop")
    other = create_key(path, "crm")
    tamper(path, id=other.key.id)

    with pytest.raises(ConfigurationError, match="same id"):
        read_keys(path)


def test_a_key_keeps_scopes_place_and_expiry(path: Path) -> None:
    scopes = (Scope.METRICS_READ, Scope.METRICS_READ)
    expires_at = NOW + timedelta(days=1)
    create_key(path, "a", scopes=scopes, tenant="acme", expires_at=expires_at)
    create_key(path, "b", topic="persistent://acme/eu/orders")

    a, b = read_keys(path)
    assert (a.scopes, a.tenant, a.topic) == ((Scope.METRICS_READ,), "acme", None)
    assert a.expires_at == expires_at
    assert b.scopes == (Scope.EVENTS_WRITE, Scope.NOTIFY_WRITE)
    assert (b.tenant, b.topic, b.expires_at) == (None, "persistent://acme/eu/orders", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "two words"},
        {"name": "-x"},
        {"name": "x" * 65},
        {"tenant": "a/b"},
        {"tenant": ""},
        {"tenant": "persistent://a"},
        {"topic": "a/b"},
        {"tenant": "a", "topic": "b"},
    ],
)
def test_unfit_names_make_no_key(path: Path, fields: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        create_key(path, **{"name": "shop", **fields})  # type: ignore[arg-type]  # strings all
    assert not path.exists()


def test_a_revoked_key_stays_on_file(path: Path) -> None:
    first, second = create_key(path, "shop").key, create_key(path, "shop").key
    done = revoke(path, first.id)

    assert [key.id for key in done.now] == [first.id]
    assert done.before == ()
    assert [key.state(NOW) for key in read_keys(path)] == [State.REVOKED, State.ACTIVE]
    assert read_keys(path)[1] == second


def test_a_name_revokes_all_its_keys(path: Path) -> None:
    for name in ("shop", "shop", "crm"):
        create_key(path, name)
    revoke(path, "shop")

    assert [bool(key.revoked_at) for key in read_keys(path)] == [True, True, False]


def test_revoking_twice_keeps_the_first_time(path: Path) -> None:
    create_key(path, "shop")
    first = revoke(path, "shop").now
    written = path.read_bytes()
    again = revoke(path, "shop")

    assert again.now == ()
    assert again.before == first
    assert path.read_bytes() == written


def test_revoking_what_is_not_there_changes_nothing(path: Path) -> None:
    create_key(path, "shop")
    written = path.read_bytes()

    with pytest.raises(UnknownKey, match="crm"):
        revoke(path, "crm")
    assert path.read_bytes() == written


def test_a_whole_key_stands_for_its_id_and_is_not_repeated(path: Path) -> None:
    made = create_key(path, "shop")

    assert find_keys(read_keys(path), made.text) == (made.key,)
    with pytest.raises(UnknownKey) as caught:
        find_keys([], made.text)
    assert secret_of(made.text) not in str(caught.value)


def test_a_name_that_looks_like_a_key_is_found(path: Path) -> None:
    made = create_key(path, "kl_a_b")

    assert find_keys(read_keys(path), "kl_a_b") == (made.key,)


def test_a_key_expires_at_its_moment() -> None:
    key = Key(id="abcd", name="a", sha256="0" * 64, scopes=(), created_at=NOW, expires_at=NOW)

    assert key.state(NOW - timedelta(seconds=1)) == State.ACTIVE
    assert key.state(NOW) == State.EXPIRED


@pytest.mark.parametrize("text", [b"", b"kl", b"kl_", b"kl_a", b"kl_a_", b"xx_a_b", b"KL_a_b"])
def test_what_does_not_look_like_a_key_is_none(text: bytes) -> None:
    assert split_key(text) is None


def test_a_key_is_split_into_id_and_secret() -> None:
    assert split_key(b"kl_ab_cd") == (b"ab", b"cd")
