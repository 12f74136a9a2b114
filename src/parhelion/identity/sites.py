"""Where a request comes from, as far as an address tells people apart."""

from __future__ import annotations

from ipaddress import IPv6Address

IPV6_SITE_BYTES = 8
"""One household or server has a whole /64: it counts as one address."""


def site_of(address: str) -> str:
    """An IPv4 address as it is, of an IPv6 address its /64; what is no address as it is."""
    if ":" not in address:
        return address
    try:
        full = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    # An IPv4 client of a socket for both: all of them would share one /64.
    mapped = full.ipv4_mapped
    return str(mapped) if mapped is not None else full.packed[:IPV6_SITE_BYTES].hex()
