"""Which addresses are refused, in every form that they can be written in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mail_proxy.outbound.guard import Guarded, Trusted, parse_networks, refusal

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

GUARDED = Guarded()


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("unspecified", "0.0.0.0"),  # noqa: S104 - an address to refuse, not one to listen on
        ("unspecified", "0.255.255.255"),
        ("private", "10.0.0.0"),
        ("private", "10.255.255.255"),
        ("carrier-grade NAT", "100.64.0.1"),
        ("carrier-grade NAT", "100.100.100.200"),
        ("carrier-grade NAT", "100.127.255.255"),
        ("loopback", "127.0.0.1"),
        ("loopback", "127.255.255.254"),
        ("link-local", "169.254.169.254"),
        ("link-local", "169.254.0.1"),
        ("private", "172.16.0.1"),
        ("private", "172.31.255.255"),
        ("reserved", "192.0.0.192"),
        ("documentation", "192.0.2.1"),
        ("reserved", "192.88.99.1"),
        ("private", "192.168.0.1"),
        ("private", "192.168.255.255"),
        ("benchmarking", "198.18.0.1"),
        ("benchmarking", "198.19.255.255"),
        ("documentation", "198.51.100.1"),
        ("documentation", "203.0.113.255"),
        ("metadata", "168.63.129.16"),
        ("multicast", "224.0.0.1"),
        ("multicast", "239.255.255.255"),
        ("reserved", "240.0.0.1"),
        ("reserved", "255.255.255.255"),
        ("unspecified", "::"),
        ("loopback", "::1"),
        ("loopback", "0:0:0:0:0:0:0:1"),
        ("private", "fc00::1"),
        ("private", "fd00:ec2::254"),
        ("link-local", "fe80::1"),
        ("link-local", "fe80::1%eth0"),
        ("link-local", "febf::1"),
        ("site-local", "fec0::1"),
        ("multicast", "ff02::1"),
        ("documentation", "2001:db8::1"),
        ("documentation", "3fff::1"),
        ("reserved", "3ffe::1"),
        ("reserved", "2001:2::1"),
        ("reserved", "2001:10::1"),
        ("reserved", "100::1"),
        ("reserved", "5f00::1"),
        # IPv4 inside IPv6
        ("loopback", "::ffff:127.0.0.1"),
        ("loopback", "::ffff:7f00:1"),
        ("private", "::ffff:10.1.2.3"),
        ("link-local", "::ffff:169.254.169.254"),
        ("link-local", "::ffff:a9fe:a9fe"),
        ("IPv4-compatible", "::127.0.0.1"),
        ("IPv4-compatible", "::8.8.8.8"),
        ("6to4", "2002:7f00:1::"),
        ("6to4", "2002:808:808::1"),
        ("reserved", "2001:0:7f00:1::"),
        ("reserved", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        ("loopback", "64:ff9b::127.0.0.1"),
        ("link-local", "64:ff9b::a9fe:a9fe"),
        ("local NAT64", "64:ff9b:1::808:808"),
        ("reserved", "64:ff9b:0:0:0:1:808:808"),
        ("reserved", "::ffff:0:7f00:1"),  # RFC 2765: IPv4-translated
        ("private", "2a00:1450:4001:82a:0:5efe:10.0.0.1"),  # RFC 5214: ISATAP
        ("loopback", "2a00:1450:4001:82a:200:5efe:127.0.0.1"),
    ],
)
def test_an_address_that_is_not_public_is_refused_by_its_kind(kind: str, address: str) -> None:
    assert refusal(address, GUARDED) == kind


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450:4001:82a::200e",
        "2a00:1450:4001:82a:0:5efe:8.8.8.8",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert refusal(address, GUARDED) is None


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1 ", "1.1.1.1.1", "[::1]", "८.८.८.८"],
)
def test_what_is_no_canonical_address_is_refused(text: str) -> None:
    assert refusal(text, GUARDED) == "malformed"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::1", "169.254.169.254", "8.8.8.8", "::ffff:10.0.0.1"])
def test_what_the_operator_set_may_be_anywhere(address: str) -> None:
    assert refusal(address, Trusted()) is None


def test_networks_that_the_operator_allows_are_reached_and_no_others() -> None:
    policy = Guarded(parse_networks(["10.1.0.0/16", " 192.168.7.5", "fd00:7::/32"]))
    for allowed in ("10.1.255.1", "192.168.7.5", "fd00:7::9", "::ffff:10.1.0.1", "64:ff9b::10.1.0.1", "8.8.8.8"):
        assert refusal(allowed, policy) is None
    for refused in ("10.2.0.1", "192.168.7.6", "fd00:8::9", "::ffff:10.2.0.1", "127.0.0.1", "2002:a01:1::"):
        assert refusal(refused, policy) is not None


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "intranet", "", "10.0.0.0/8;10.1.0.0/16"])
def test_a_network_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network") as caught:
        parse_networks(["10.0.0.0/8", text])
    assert repr(text.strip()) in str(caught.value)


@PATIENT
@given(st.integers(0, 2**32 - 1))
def test_what_the_standard_library_takes_for_private_is_refused_in_every_form(number: int) -> None:
    address = IPv4Address(number)
    direct = refusal(str(address), GUARDED)
    if not address.is_global or address.is_multicast:
        assert direct is not None
    assert refusal(f"::ffff:{address}", GUARDED) == direct
    assert refusal(str(IPv6Address(int(IPv6Address("64:ff9b::")) + number)), GUARDED) == direct
    assert refusal(str(IPv6Address((0x2002 << 112) + (number << 80) + 1)), GUARDED) is not None
    assert refusal(str(IPv6Address((0x20010000 << 96) + number)), GUARDED) is not None


@PATIENT
@given(st.integers(0, 2**128 - 1))
def test_no_private_ipv6_address_is_allowed(number: int) -> None:
    address = IPv6Address(number)
    if (address.is_private or address.is_multicast or address.is_reserved) and address.ipv4_mapped is None:
        assert refusal(str(address), GUARDED) is not None
