"""Which addresses a request may reach. Decided for the address that is connected to, never for a name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from typing_extensions import assert_never

Network: TypeAlias = "IPv4Network | IPv6Network"
Address: TypeAlias = "IPv4Address | IPv6Address"


@dataclass(frozen=True, slots=True)
class Trusted:
    """For what the operator set: every address may be reached, private networks included."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """For what came in a message or from a tenant: public addresses only, and the networks that the operator allows."""

    allowed: tuple[Network, ...] = ()


Policy: TypeAlias = "Trusted | Guarded"

# RFC 6890 and the IANA registries of special-purpose addresses. Written out, because what the standard library takes
# for private differs between Python versions.
_REFUSED_V4: tuple[tuple[str, IPv4Network], ...] = tuple(
    (kind, IPv4Network(network))
    for kind, network in (
        ("unspecified", "0.0.0.0/8"),
        ("private", "10.0.0.0/8"),
        ("carrier-grade NAT", "100.64.0.0/10"),  # RFC 6598; a metadata service at 100.100.100.200
        ("loopback", "127.0.0.0/8"),
        ("link-local", "169.254.0.0/16"),  # the metadata services at 169.254.169.254
        ("private", "172.16.0.0/12"),
        ("reserved", "192.0.0.0/24"),  # a metadata service at 192.0.0.192
        ("documentation", "192.0.2.0/24"),
        ("reserved", "192.88.99.0/24"),  # relays of 6to4, RFC 7526
        ("private", "192.168.0.0/16"),
        ("benchmarking", "198.18.0.0/15"),
        ("documentation", "198.51.100.0/24"),
        ("documentation", "203.0.113.0/24"),
        ("metadata", "168.63.129.16/32"),  # a cloud's own service at an address that looks public
        ("multicast", "224.0.0.0/4"),
        ("reserved", "240.0.0.0/4"),  # broadcast as well
    )
)

# Inside 2000::/3. Everything outside of it is refused at once.
_REFUSED_V6: tuple[tuple[str, IPv6Network], ...] = tuple(
    (kind, IPv6Network(network))
    for kind, network in (
        ("reserved", "2001::/23"),  # Teredo (RFC 4380), which embeds IPv4 addresses, benchmarking, ORCHID
        ("documentation", "2001:db8::/32"),
        ("6to4", "2002::/16"),  # RFC 3056: embeds an IPv4 address
        ("reserved", "3ffe::/16"),
        ("documentation", "3fff::/20"),  # RFC 9637
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")  # RFC 4291, 2.4
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052; where there is only IPv6, every IPv4 host is reached through it
_NAMED_V6: tuple[tuple[str, IPv6Network], ...] = tuple(
    (kind, IPv6Network(network))
    for kind, network in (
        ("unspecified", "::/128"),
        ("loopback", "::1/128"),
        ("IPv4-compatible", "::/96"),
        ("local NAT64", "64:ff9b:1::/48"),  # RFC 8215: whatever is behind it is inside
        ("private", "fc00::/7"),
        ("link-local", "fe80::/10"),
        ("site-local", "fec0::/10"),
        ("multicast", "ff00::/8"),
    )
)
_ISATAP = frozenset(
    {0x00005EFE, 0x02005EFE}
)  # RFC 5214, 6.1: this half of the interface id is followed by an IPv4 address


def refusal(address: str, policy: Policy) -> str | None:
    """Say what kind of address this is, if the policy refuses it; None if it may be reached.

    `address` is an address as the operating system gives it. What is no such address is refused, since the operating
    system could take it for one (`127.1`, `2130706433`).
    """
    match policy:
        case Trusted():
            return None
        case Guarded(allowed):
            try:
                parsed = ip_address(address.partition("%")[0])
            except ValueError:
                return "malformed"
            return _guarded_refusal(parsed, allowed)
        case _:
            assert_never(policy)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks (`10.0.0.0/8`) and single addresses, for a list of allowed ones. Raises `ValueError`."""
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip()))
        except ValueError as error:
            raise ValueError(f"{text.strip()!r} is not a network such as 10.0.0.0/8: {error}") from None
    return tuple(networks)


def _guarded_refusal(address: Address, allowed: tuple[Network, ...]) -> str | None:
    if any(address in network for network in allowed):
        return None
    if isinstance(address, IPv4Address):
        return next((kind for kind, network in _REFUSED_V4 if address in network), None)
    carried = _carried(address)
    if carried is not None:
        return _guarded_refusal(carried, allowed)
    if address not in _GLOBAL_V6:
        return next((kind for kind, network in _NAMED_V6 if address in network), "reserved")
    refused = next((kind for kind, network in _REFUSED_V6 if address in network), None)
    if refused is None and (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return _guarded_refusal(IPv4Address(int(address) & 0xFFFFFFFF), allowed)
    return refused


def _carried(address: IPv6Address) -> IPv4Address | None:
    """Give the IPv4 address that is really reached: IPv4-mapped addresses (RFC 4291, 2.5.5.2) and NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
