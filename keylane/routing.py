"""Which partition a key belongs to, the same for every producer in every language.

Java's `String.hashCode` over UTF-16 units, masked to 31 bits, modulo the partitions: what the Java
and Go clients and `pulsar-client produce -k` do. The C++ client's default hash is neither that nor
stable between its releases.
"""

from __future__ import annotations

from array import array


def java_string_hash(key: str) -> int:
    """`key.hashCode()` as Java computes it, masked to 31 bits."""
    units = array("H", key.encode("utf-16-le", "surrogatepass"))
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def partition_of(key: str, partitions: int) -> int:
    """The partition, from 0, that holds all messages with this key."""
    return java_string_hash(key) % partitions
