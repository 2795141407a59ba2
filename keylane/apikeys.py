"""API keys and the file that knows them: `keylane keys` writes it, `keylane ingest` reads it.

A key is given out once, as `kl_ID_SECRET`. The file keeps only the SHA-256 of the secret. A plain,
fast hash is right here: the secret is 256 random bits, so nobody can try out the likely ones, which
is what slow, salted hashes of passwords are for; and it is computed for every request.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from typing_extensions import override

from keylane.errors import ConfigurationError, KeylaneError
from keylane.names import full_topic

_PREFIX: Final = "kl"
_PREFIX_BYTES: Final = _PREFIX.encode()
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]


class Scope(StrEnum):
    """What a key may do."""

    EVENTS_WRITE = "events:write"
    NOTIFY_WRITE = "notify:write"
    METRICS_READ = "metrics:read"


DEFAULT_SCOPES: Final = (Scope.EVENTS_WRITE, Scope.NOTIFY_WRITE)


class State(StrEnum):
    """Whether a key is taken."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class UnknownKey(KeylaneError):  # noqa: N818  named by the fact
    """There is no key of that id or name."""


class Key(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of a key. Several may have one name, so that a new one can replace the old."""

    id: Annotated[str, Meta(pattern="^[0-9a-f]{4,32}$")]
    name: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...]
    created_at: Moment
    #: The topic that its events go to, by the tenant's namespace or as a whole; at most one.
    tenant: str | None = None
    topic: str | None = None
    expires_at: Moment | None = None
    revoked_at: Moment | None = None

    def __post_init__(self) -> None:
        try:
            _check_name(self.name)
            _check_place(self.tenant, self.topic)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error

    @override
    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, name={self.name!r})"

    def state(self, now: datetime) -> State:
        if self.revoked_at:
            return State.REVOKED
        return State.EXPIRED if self.expires_at and self.expires_at <= now else State.ACTIVE


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only time when its secret is known."""

    key: Key
    #: What the sender presents.
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What revoking did: keys it ended, and keys that had ended before."""

    now: tuple[Key, ...]
    before: tuple[Key, ...]


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")


_decoder: msgspec.json.Decoder[_File] = msgspec.json.Decoder(_File)


def digest_of(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def split_key(text: bytes) -> tuple[bytes, bytes] | None:
    """Id and secret of a key as senders present it; None if it does not look like one."""
    prefix, _, rest = text.partition(b"_")
    key_id, _, secret = rest.partition(b"_")
    return (key_id, secret) if prefix == _PREFIX_BYTES and secret else None


def read_keys(path: Path) -> tuple[Key, ...]:
    """Every key on file, in the order of their making; raises `ConfigurationError`."""
    try:
        return _decoder.decode(path.read_bytes()).keys
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no keys file {path}. Make it with `keylane keys create NAME --keys-file "
            f"{path}`, or name another with --keys-file or KEYLANE_INGEST__KEYS_FILE."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"The keys file {path} can't be read ({error.strerror}). Give this user the right to "
            "read it, or name another with --keys-file or KEYLANE_INGEST__KEYS_FILE."
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The keys file {path} is broken: {error}. Put back a good copy, or move it away and "
            "make new keys with `keylane keys create`."
        ) from error


def create_key(
    path: Path,
    name: str,
    *,
    scopes: Sequence[Scope] = DEFAULT_SCOPES,
    tenant: str | None = None,
    topic: str | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key and put it on file; raises `ConfigurationError` if a name or the file is unfit."""
    _check_name(name)
    _check_place(tenant, topic)
    secret = secrets.token_hex(_SECRET_BYTES)
    with _changing(path):
        keys = read_keys(path) if path.exists() else ()
        key = Key(
            id=_free_id(keys),
            name=name,
            sha256=digest_of(secret.encode()).hex(),
            scopes=tuple(dict.fromkeys(scopes)),
            created_at=_now(),
            tenant=tenant,
            topic=topic,
            expires_at=expires_at,
        )
        _write(path, (*keys, key))
    return NewKey(key, f"{_PREFIX}_{key.id}_{secret}")


def revoke(path: Path, which: str) -> Revoked:
    """End the key of that id, or all of that name. Raises `UnknownKey` or `ConfigurationError`."""
    with _changing(path):
        keys = read_keys(path)
        meant = find_keys(keys, which)
        ending = {key.id for key in meant if not key.revoked_at}
        if ending:
            now = _now()
            keys = tuple(
                msgspec.structs.replace(key, revoked_at=now) if key.id in ending else key
                for key in keys
            )
            _write(path, keys)
    ended = tuple(key for key in keys if key.id in ending)
    return Revoked(ended, tuple(key for key in meant if key.revoked_at))


def find_keys(keys: Sequence[Key], which: str) -> tuple[Key, ...]:
    """The key of that id, else all of that name; raises `UnknownKey` if there is none.

    A whole key stands for its id: that is what the finder of a leaked one has. It is not repeated
    in the error.
    """
    parts = which.split("_")
    wanted = parts[1] if parts[0] == _PREFIX and len(parts) > 1 else which
    found = [key for key in keys if key.id == wanted]
    found = found or [key for key in keys if key.name == which]
    if not found:
        raise UnknownKey(f"No key has the id or name '{wanted}': see `keylane keys list`.")
    return tuple(found)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"'{name}' can't name a key: use 1 to 64 letters, digits, '.', '_' or '-', beginning "
            "with a letter or a digit"
        )


def _check_place(tenant: str | None, topic: str | None) -> None:
    if tenant is not None and topic is not None:
        raise ConfigurationError("a key has a tenant or a topic, not both")
    if topic is not None:
        full_topic(topic)
    if tenant is not None:
        _check_tenant(tenant)


def _check_tenant(tenant: str) -> None:
    with contextlib.suppress(ConfigurationError):
        if full_topic(f"{tenant}/default/topic") == f"persistent://{tenant}/default/topic":
            return
    raise ConfigurationError(
        f"'{tenant}' can't name a tenant: use letters, digits, '.', '=', ':', '_' or '-'"
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _free_id(keys: Sequence[Key]) -> str:
    taken = {key.id for key in keys}
    while (drawn := secrets.token_hex(_ID_BYTES)) in taken:
        pass
    return drawn


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Of two commands that change the file at once, one waits for the other to finish."""
    target = path.resolve()
    try:
        # Not the file itself: each change puts another one in its place. The lock stays there,
        # for a waiting command would hold one that no other could find any more.
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ConfigurationError(
            f"The keys file {path} can't be written ({error.strerror}). Nothing was changed: see "
            "that its folder is there and that this user may write to it, or name another file "
            "with --keys-file or KEYLANE_INGEST__KEYS_FILE."
        ) from error


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    """Put another file in the place of the old one; a reader sees one of the two, never a part."""
    target = path.resolve()  # a link goes on pointing there
    written = msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=2) + b"\n"
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if target.exists():
                _keep_readers(file.fileno(), target.stat())
            file.write(written)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_readers(handle: int, old: os.stat_result) -> None:
    """A server of another user or group, to whom the old file was given, can read the new one."""
    with contextlib.suppress(PermissionError):
        os.fchown(handle, old.st_uid, old.st_gid)
        os.fchmod(handle, stat.S_IMODE(old.st_mode) & 0o640 | 0o600)
