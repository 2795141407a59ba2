"""Who sends a request: API keys, read again when their file changes."""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from ingest.refusals import NotAllowed, NotAuthenticated
from keylane.apikeys import Key, Scope, digest_of, read_keys, split_key
from keylane.errors import ConfigurationError
from keylane.names import full_topic

log = structlog.get_logger()

#: Seconds between two looks at the file; a revoked key is taken for that long at most.
LOOK_EVERY_S: Final = 2.0

_ALL_SCOPES: Final = frozenset(scope.value for scope in Scope)
_NAMESPACE = re.compile(r"[\w.=:-]+/[\w.=:-]+")
_BEARER: Final = b"bearer "
#: An unknown id is compared too, so that the time of an answer does not tell which ids there are.
_NO_DIGEST: Final = digest_of(b"")
_Seen: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, and where what they send goes."""

    #: Empty for everybody, when no keys are asked for.
    name: str
    key_id: str
    scopes: frozenset[str]
    topic: str

    def require(self, scope: str) -> None:
        """Raise `NotAllowed` if the key lacks the scope."""
        if scope not in self.scopes:
            raise NotAllowed(f"This API key lacks the scope {scope}.")


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    expires_at: float
    caller: Caller


class KeyRing:
    """The keys that are taken now; without a file everybody is taken."""

    def __init__(
        self,
        path: Path | None,
        default_topic: str,
        tenants: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the file; raises `ConfigurationError` if it, or a tenant's namespace, is unfit.

        `clock` gives seconds since 1970.
        """
        self._path = path
        self._topics = _TopicOf(full_topic(default_topic), tenants)
        self._clock = clock
        self._anonymous = Caller("", "", _ALL_SCOPES, self._topics.default)
        self._known: dict[bytes, _Known] = {}
        self._seen: _Seen | None = None
        self._complaint = ""
        if path:
            self._read(path)

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Find who presents a key that is taken; raises `NotAuthenticated`, always the same."""
        if self._path is None:
            return self._anonymous
        id_and_secret = split_key(_presented(headers))
        if id_and_secret is None:
            raise NotAuthenticated
        key_id, secret = id_and_secret
        known = self._known.get(key_id)
        digest = known.digest if known else _NO_DIGEST
        is_same = hmac.compare_digest(digest, digest_of(secret))
        if not (known and is_same and self._clock() < known.expires_at):
            raise NotAuthenticated
        return known.caller

    async def keep_current(self, every_s: float = LOOK_EVERY_S) -> None:
        """Read the file again whenever it changes, for ever; returns at once if there is none.

        A file that can't be used changes nothing: those who could send still can. It is logged.
        """
        if self._path is None:
            return
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self._look, self._path)

    def _look(self, path: Path) -> None:
        # What failed is tried each time: a disk that is away and back leaves the same status.
        if _status(path) == self._seen and not self._complaint:
            return
        complaint = ""
        try:
            self._read(path)
        except ConfigurationError as error:
            complaint = str(error)
        kept = len(self._known)
        if not complaint:
            log.info("keys.read", file=str(path), keys=kept)
        elif complaint != self._complaint:
            log.error("keys.unusable", file=str(path), error=complaint, kept=kept)
        self._complaint = complaint

    def _read(self, path: Path) -> None:
        seen = _status(path)  # before the content: what changes meanwhile is seen the next time
        keys = read_keys(path)
        self._known = {key.id.encode(): self._known_of(key) for key in keys if not key.revoked_at}
        self._seen = seen

    def _known_of(self, key: Key) -> _Known:
        scopes = frozenset(scope.value for scope in key.scopes)
        expires_at = key.expires_at.timestamp() if key.expires_at else math.inf
        caller = Caller(key.name, key.id, scopes, self._topics.of(key))
        return _Known(bytes.fromhex(key.sha256), expires_at, caller)


class _TopicOf:
    """Which topic a key's events go to: its own, else its tenant's, else the default."""

    def __init__(self, default: str, tenants: Mapping[str, str]) -> None:
        self.default = default
        self._name = default.rpartition("/")[2]
        self._tenants = tenants
        unfit = [tenant for tenant, space in tenants.items() if not _NAMESPACE.fullmatch(space)]
        if unfit:
            raise ConfigurationError(_unfit_namespaces(unfit))

    def of(self, key: Key) -> str:
        if key.topic is not None:
            return full_topic(key.topic)
        if key.tenant is not None:
            namespace = self._tenants.get(key.tenant, f"{key.tenant}/default")
            return full_topic(f"{namespace}/{self._name}")
        return self.default


def _unfit_namespaces(tenants: Sequence[str]) -> str:
    return (
        f"The namespace of {', '.join(tenants)} in ingest.tenants (KEYLANE_INGEST__TENANTS) is "
        "unfit: write TENANT/NAMESPACE. Nothing was started."
    )


def _presented(headers: Mapping[bytes, bytes]) -> bytes:
    # A proxy's own Authorization, of another scheme, leaves the other header to the key.
    given = headers.get(b"authorization", b"")
    if given[: len(_BEARER)].lower() == _BEARER:
        return given[len(_BEARER) :].strip()
    return headers.get(b"x-api-key", b"").strip()


def _status(path: Path) -> _Seen | None:
    try:
        found = os.stat(path)  # noqa: PTH116  the same, without another object
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
