from __future__ import annotations

import gzip
import random
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.inflate import CHUNK_BYTES, inflate
from ingest.refusals import BodyTooLarge, MalformedBody, WrongMediaType
from keylane.errors import KeylaneError

MAX_BYTES = 100_000
GZIP = {b"content-encoding": b"gzip"}
BODY = random.Random(1).randbytes(3 * CHUNK_BYTES)
# The same in every process that collects these tests.
PACKED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize(
    "headers",
    [{}, {b"content-encoding": b""}, {b"content-encoding": b" Identity "}],
    ids=repr,
)
def test_a_body_without_an_encoding_is_given_back_as_it_is(headers: dict[bytes, bytes]) -> None:
    assert inflate(headers, BODY, MAX_BYTES) is BODY


@pytest.mark.parametrize("encoding", [b"gzip", b"x-gzip", b"GZIP", b" gzip "])
def test_gzip_is_undone(encoding: bytes) -> None:
    assert inflate({b"content-encoding": encoding}, PACKED, MAX_BYTES) == BODY


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"zstd", b"gzip, gzip", b"\xff"])
def test_other_encodings_are_refused_with_what_is_taken(encoding: bytes) -> None:
    with pytest.raises(WrongMediaType, match="gzip"):
        inflate({b"content-encoding": encoding}, PACKED, MAX_BYTES)


def test_members_may_follow_each_other() -> None:
    members = [b"", b"[1,", b"2", b"", b"]" * CHUNK_BYTES, b""]

    packed = b"".join(gzip.compress(member) for member in members)

    assert inflate(GZIP, packed, MAX_BYTES) == b"".join(members)


def test_a_body_may_be_as_large_as_the_limit() -> None:
    assert inflate(GZIP, gzip.compress(b"x" * MAX_BYTES), MAX_BYTES) == b"x" * MAX_BYTES
    with pytest.raises(BodyTooLarge):
        inflate(GZIP, gzip.compress(b"x" * (MAX_BYTES + 1)), MAX_BYTES)


def test_members_count_together() -> None:
    half = gzip.compress(b"x" * (MAX_BYTES // 2))

    assert len(inflate(GZIP, half * 2, MAX_BYTES)) == MAX_BYTES
    with pytest.raises(BodyTooLarge):
        inflate(GZIP, half * 2 + gzip.compress(b"x"), MAX_BYTES)


@pytest.mark.parametrize("headers", [{}, GZIP], ids=["plain", "gzip"])
def test_what_was_sent_may_not_be_larger_either(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(BodyTooLarge):
        inflate(headers, PACKED, len(PACKED) - 1)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, CHUNK_BYTES, len(PACKED) - 8, len(PACKED) - 1])
def test_a_body_that_ends_too_early_is_refused(size: int) -> None:
    with pytest.raises(MalformedBody):
        inflate(GZIP, PACKED[:size], MAX_BYTES)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"UserID":"u","Payload":1}]',
        zlib.compress(BODY),
        PACKED[:500] + bytes([PACKED[500] ^ 1]) + PACKED[501:],
        PACKED[:-1] + bytes([PACKED[-1] ^ 1]),
        PACKED[:-5] + bytes([PACKED[-5] ^ 1]) + PACKED[-4:],
        PACKED + b"\0",
        PACKED + b"\x1f",
        PACKED + b"garbage",
        PACKED + PACKED[:20],
    ],
    ids=lambda body: repr(body[:6] + body[-6:]),
)
def test_what_is_no_gzip_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        inflate(GZIP, body, MAX_BYTES)


def test_a_bomb_is_never_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflate(GZIP, bomb, MAX_BYTES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * MAX_BYTES


def test_tiny_members_cost_no_more_than_their_number() -> None:
    packed = gzip.compress(b"") * 50_000
    started_at = time.process_time()

    assert inflate(GZIP, packed, len(packed)) == b""

    assert time.process_time() - started_at < 5


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(0, 300))
@settings(deadline=None)
def test_never_more_than_the_limit_comes_out(members: list[bytes], max_bytes: int) -> None:
    packed = b"".join(gzip.compress(member) for member in members)

    try:
        body = inflate(GZIP, packed, max_bytes)
    except BodyTooLarge:
        assert max(len(packed), len(b"".join(members))) > max_bytes
    else:
        assert body == b"".join(members)
        assert len(body) <= max_bytes


@given(st.binary(), st.sampled_from([b"", gzip.compress(b"x", mtime=0), b"\x1f\x8b\x08\0"]))
@settings(deadline=None)
def test_of_random_bytes_only_refusals_come(body: bytes, head: bytes) -> None:
    try:
        inflate(GZIP, head + body, MAX_BYTES)
    except KeylaneError:
        return
