"""Where a request comes from, as far as an address tells people apart."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import NamedTuple

IPV6_SITE_BYTES = 8
"""One household or server has a whole /64: it counts as one address."""


class Caller(NamedTuple):
    """Who asks, as far as limits tell people apart: a stranger behind a proxy is neither."""

    site: str = ""
    """Of its address (`site_of`); "" where only a proxy's is known."""
    account: str = ""
    """Whose credential came; "" where none did, or a bad one."""

    @property
    def share(self) -> str:
        """What it counts on: its address, else its account; "" is shared by all the others.

        The address first: whoever has one could open accounts to have more than one share.
        """
        return self.site or self.account


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
