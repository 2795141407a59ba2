from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.address import client_address, parse_networks
from keylane.errors import ConfigurationError

TRUSTED = parse_networks("10.0.0.0/8, 2001:db8:1::/48")


def test_networks_stand_between_commas() -> None:
    assert parse_networks(" 10.0.0.0/8,192.0.2.1 , 2001:db8::/32,") == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("192.0.2.1/32"),
        IPv6Network("2001:db8::/32"),
    )
    assert parse_networks("") == ()


def test_ipv4_that_is_written_as_ipv6_is_ipv4() -> None:
    assert parse_networks("::ffff:10.0.0.0/104,::ffff:192.0.2.1") == parse_networks(
        "10.0.0.0/8,192.0.2.1"
    )


@pytest.mark.parametrize("part", ["10.0.0.1/8", "10.0.0", "proxy", "10.0.0.0/33", "[::1]", "*"])
def test_what_is_no_network_is_named(part: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_networks(f"10.0.0.0/8, {part},::1")

    assert repr(part) in str(refused.value)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        ([b"192.0.2.7"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        ([b"192.0.2.7, 10.0.0.3,10.0.0.2"], "192.0.2.7"),
        ([b"6.6.6.6", b"192.0.2.7", b"10.0.0.2"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7", b"2001:db8:1::5 "], "192.0.2.7"),
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([b"\t192.0.2.7:1234"], "192.0.2.7"),
        ([b"2001:DB8:0:0::7"], "2001:db8::7"),
        ([b"[2001:db8::7]"], "2001:db8::7"),
        ([b"[2001:db8::7]:443"], "2001:db8::7"),
        ([b"::ffff:192.0.2.7"], "192.0.2.7"),
        ([b"192.0.2.7, ::ffff:10.0.0.2"], "192.0.2.7"),
    ],
    ids=repr,
)
def test_the_client_is_the_first_from_the_right_that_is_not_trusted(
    forwarded: list[bytes], client: str
) -> None:
    assert client_address("10.0.0.1", forwarded, TRUSTED) == client


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"unknown",
        b"_hidden",
        b"192.0.2.300",
        b"192.0.2.07",
        b"192.0.2.7:",
        b"192.0.2.7:123456",
        b"[192.0.2.7",
        b"2001:db8::7]:1",
        b"fe80::1%eth0",
        b"fe80::1%\xc3\xa4",
        b'"192.0.2.7"',
        b"1.2.3.4 5.6.7.8",
        b"\xff",
    ],
    ids=repr,
)
def test_what_is_no_address_ends_the_walk(entry: bytes) -> None:
    forwarded = [b"192.0.2.7, " + entry + b", 10.0.0.2"]

    assert client_address("10.0.0.1", forwarded, TRUSTED) == "10.0.0.2"


@pytest.mark.parametrize("peer", ["192.0.2.9", "::ffff:192.0.2.9"])
@pytest.mark.parametrize("trusted", [(), TRUSTED])
def test_a_peer_that_is_not_trusted_is_the_client(
    peer: str, trusted: tuple[IPv4Network, ...]
) -> None:
    assert client_address(peer, [b"192.0.2.7"], trusted) == "192.0.2.9"


def test_a_trusted_peer_may_be_written_as_ipv6() -> None:
    assert client_address("::ffff:10.0.0.1", [b"192.0.2.7"], TRUSTED) == "192.0.2.7"


@pytest.mark.parametrize("peer", ["", "testclient", "/run/ingest.sock"])
def test_a_peer_without_an_address_is_given_back(peer: str) -> None:
    assert client_address(peer, [b"192.0.2.7"], TRUSTED) == peer


def test_the_zone_of_a_peer_is_left_out() -> None:
    assert client_address("fe80::1%eth0", [b"192.0.2.7"], parse_networks("fe80::/10")) == (
        "192.0.2.7"
    )
    assert client_address("fe80::1%eth0", [], ()) == "fe80::1"


_ADDRESSES = st.ip_addresses().map(str)
_ENTRIES = st.binary(max_size=30) | _ADDRESSES.map(str.encode)
_UNTRUSTED = st.ip_addresses(v=4).filter(lambda a: a not in TRUSTED[0]).map(str)


@given(_UNTRUSTED, st.lists(_ENTRIES))
@settings(deadline=None)
def test_an_untrusted_peer_never_names_another(peer: str, forwarded: list[bytes]) -> None:
    assert client_address(peer, forwarded, TRUSTED) == peer


@given(_UNTRUSTED, st.lists(_ENTRIES), st.integers(0, 3))
@settings(deadline=None)
def test_what_a_client_wrote_is_never_read(client: str, spoofed: list[bytes], proxies: int) -> None:
    seen = ", ".join([client, *(f"10.1.1.{n}" for n in range(proxies))]).encode()

    assert client_address("10.0.0.1", [*spoofed, seen], TRUSTED) == client
    assert client_address("10.0.0.1", [b",".join([*spoofed, seen])], TRUSTED) == client


@given(_ADDRESSES, st.lists(_ENTRIES))
@settings(deadline=None)
def test_what_comes_out_is_an_address(peer: str, forwarded: list[bytes]) -> None:
    found = client_address(peer, forwarded, parse_networks("0.0.0.0/0,::/0"))

    assert str(ip_address(found)) == found
