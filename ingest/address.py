"""Whose request it is when proxies stand in between: only those that are trusted are believed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

from keylane.errors import ConfigurationError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: `2001:db8::1`, `[2001:db8::1]:443`, `192.0.2.1` or `192.0.2.1:443`. A zone (`%eth0`) is not
#: taken: it means something on the sender's machine only, and may be any text.
_ENTRY: Final = re.compile(
    rb"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)"
)
#: IPv4 addresses as IPv6 writes them, ::ffff:192.0.2.1.
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read what stands between commas; raises `ConfigurationError`, which names the bad part."""
    return tuple(_network(part.strip()) for part in text.split(",") if part.strip())


def client_address(peer: str, forwarded: Sequence[bytes], trusted: Sequence[Network]) -> str:
    """Find the address that a request comes from.

    `peer` is the other end of the connection, `forwarded` the values of X-Forwarded-For in their
    order. Each hop wrote down whom it saw, so they are walked from the right, and only as far as a
    trusted one wrote. What is no address there ends the walk. A `peer` that is none (a Unix socket)
    is given back as it is.
    """
    client = _parsed(peer)
    if client is None:
        return peer
    hops = b",".join(forwarded).split(b",") if trusted else []
    while hops and _is_in(client, trusted):
        before = _forwarded(hops.pop())
        if before is None:
            break
        client = before
    return str(client)


def _network(part: str) -> Network:
    try:
        network = ip_network(part)
    except ValueError as error:
        raise ConfigurationError(f"{part!r} is no address or network: {error}") from error
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    return network


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _forwarded(entry: bytes) -> Address | None:
    found = _ENTRY.fullmatch(entry.strip(b" \t"))
    return _parsed(found[found.lastindex or 0].decode("ascii")) if found else None


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
