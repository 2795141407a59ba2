from __future__ import annotations

import pytest

from keylane.routing import java_string_hash, partition_of


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # What Java prints for `"...".hashCode() & 0x7fffffff`.
        ("", 0),
        ("user-1", 1311451823),
        ("Zoë", 90166),
        ("東京", 841051),
        ("😀", 1772899),
        ("polygenelubricants", 0),
    ],
)
def test_keys_hash_as_java_hashes_them(key: str, expected: int) -> None:
    assert java_string_hash(key) == expected


def test_the_partition_is_the_hash_modulo_their_number() -> None:
    assert partition_of("user-1", 3) == java_string_hash("user-1") % 3
