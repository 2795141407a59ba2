"""Which addresses must not be called: everything that isn't a public host's.

A destination is named by somebody who isn't trusted with the network that Keylane runs in.
"""

from __future__ import annotations

import ipaddress
import socket
import unicodedata
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import unquote

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

#: The first that fits tells what an address is.
_INTERNAL: Final = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "metadata"),
        ("169.254.169.254/32", "metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmark"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("2001::/32", "Teredo"),
        ("2001:2::/48", "benchmark"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("fd00:ec2::254/128", "metadata"),
        ("fc00::/7", "unique-local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
#: All addresses of public hosts are in here; what isn't is reserved.
_PUBLIC_6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE: Final = IPv6Network("::/96")
_LOW_32: Final = 0xFFFF_FFFF


class Guard:
    """Lets public addresses through, and the networks of `allow`."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._allowed = tuple(ip_network(network, strict=False) for network in allow)

    def objection(self, address: str) -> str | None:
        """Why this address must not be called; none if it may be.

        An address that carries another one (NAT64, 6to4 and their like) has to be let through
        itself, and so has the one that it carries.
        """
        try:
            outer = ip_address(address)
        except ValueError:
            return f"{address} is no address"
        for judged in (outer, *_carried(outer)):
            if what := self._internal(judged):
                return f"{outer} is a {what} address"
        return None

    def objection_to_host(self, host: str) -> str | None:
        """The same for a host that somebody else will look up: only literals can be judged."""
        literal = _literal(host)
        return self.objection(literal) if literal else None

    def _internal(self, address: Address) -> str | None:
        if any(address in network for network in self._allowed):
            return None
        for network, what in _INTERNAL:
            if address in network:
                return what
        return "reserved" if address.version == 6 and address not in _PUBLIC_6 else None  # noqa: PLR2004


def _carried(address: Address) -> Iterator[IPv4Address]:
    """IPv4 addresses in an IPv6 one."""
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield address.teredo[1]
    if address in _NAT64 or address in _NAT64_LOCAL or address in _COMPATIBLE:
        yield IPv4Address(int(address) & _LOW_32)


def _literal(host: str) -> str | None:
    """The address that a host is in whatever spelling; a name of this machine is loopback."""
    plain = unicodedata.normalize("NFKC", unquote(host)).lower().replace("。", ".").rstrip(".")
    if plain == "localhost" or plain.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(plain.strip("[]")))
    except ValueError:
        pass
    try:
        # Decimal, octal, hexadecimal and shortened forms, which browsers and libcurl take, too.
        return str(IPv4Address(socket.inet_aton(plain)))
    except (OSError, ValueError):
        return None
