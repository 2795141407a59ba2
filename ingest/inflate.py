"""Content-Encoding: gzip is taken, and never unpacked beyond what a body may have."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Final

from ingest.refusals import BodyTooLarge, MalformedBody, WrongMediaType

#: Bytes that are unpacked at a time. After each gzip member zlib copies what is left of them, so
#: larger ones let a body of many tiny members cost their number times this.
CHUNK_BYTES: Final = 4096

_PLAIN: Final = frozenset({b"", b"identity"})
_GZIP: Final = frozenset({b"gzip", b"x-gzip"})
#: 16 makes zlib ask for the header and check sum of gzip.
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS


def inflate(headers: Mapping[bytes, bytes], body: bytes, max_bytes: int) -> bytes:
    """Undo the Content-Encoding; a body without one comes back as it is.

    Raises `BodyTooLarge` when more than `max_bytes` were sent or come out, `MalformedBody` when it
    is no gzip or not all of it, `WrongMediaType` for other encodings.
    """
    if len(body) > max_bytes:
        raise BodyTooLarge(max_bytes)
    encoding = headers.get(b"content-encoding", b"").strip().lower()
    if encoding in _PLAIN:
        return body
    if encoding not in _GZIP:
        raise WrongMediaType("Send it without a Content-Encoding, or with gzip.")
    try:
        return _gunzip(memoryview(body), max_bytes)
    except zlib.error as error:
        raise MalformedBody(f"The body is not gzip: {error}.") from error


def _gunzip(body: memoryview, max_bytes: int) -> bytes:
    # Not bytes that are joined: this buffer is given out without a copy.
    out = io.BytesIO()
    member = zlib.decompressobj(_GZIP_BITS)
    is_whole = False
    for start in range(0, len(body), CHUNK_BYTES):
        chunk: bytes | memoryview = body[start : start + CHUNK_BYTES]
        while chunk:
            # One byte more than there is room for: 0 would mean no bound.
            out.write(member.decompress(chunk, max_bytes - out.tell() + 1))
            if out.tell() > max_bytes:
                raise BodyTooLarge(max_bytes)
            is_whole = member.eof
            chunk = member.unused_data
            if is_whole:
                member = zlib.decompressobj(_GZIP_BITS)
    if not is_whole:
        raise MalformedBody("The gzip body ends too early.")
    return out.getvalue()
