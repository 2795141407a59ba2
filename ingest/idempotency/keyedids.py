"""Ids of events that came without one in a request with a key: the same on every repeat."""

from __future__ import annotations

import hashlib

_VARIANT_MASK = 0x3FFF_FFFF_FFFF_FFFF
_VARIANT = 0x8000_0000_0000_0000


class KeyedIds:
    """Makes UUIDv7s (RFC 9562) of the moment a key was first seen, else derived from the key."""

    def __init__(self, scope: str, key: str, first_ms: int) -> None:
        self._seed = hashlib.sha256(f"event\0{scope}\0{key}\0".encode())
        moment = f"{first_ms:012x}"
        self._head = f"{moment[:8]}-{moment[8:]}-7"
        self._made = 0

    def __call__(self, count: int) -> list[str]:
        first, self._made = self._made, self._made + count
        return [self._id(index) for index in range(first, self._made)]

    def _id(self, index: int) -> str:
        derived = self._seed.copy()
        derived.update(index.to_bytes(8))
        digest = derived.digest()
        low = f"{int.from_bytes(digest[:8]) & _VARIANT_MASK | _VARIANT:016x}"
        return f"{self._head}{digest[8:10].hex()[:3]}-{low[:4]}-{low[4:]}"
