"""What of the network one client has for itself, so that what is counted by client cannot be had without number."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address


def parsed_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, an IPv4-mapped one (RFC 4291 section 2.5.5.2) as the IPv4 address; None for what is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(address: IPv4Address | IPv6Address) -> str:
    """Return the IPv4 address itself, or the /64 of an IPv6 one."""
    return str(IPv6Network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


def client_network(text: str) -> str:
    """Return the network of an address as the operating system gives it; what is no address stands for itself."""
    address = parsed_address(text)
    return text if address is None else network_of(address)
