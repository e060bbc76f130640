"""Decides whether an IP address is public. Only public addresses may be reached through the proxy.

The ranges are those of IANA's registries of special-purpose addresses, and are listed here because Python's own list
differs between releases. An IPv6 address that contains an IPv4 address is public only if both are. The addresses of
cloud metadata services are among the ranges: most are link-local or shared, and Azure's is public and listed.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

type Address = IPv4Address | IPv6Address

_SPECIAL_4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's metadata service
    )
)
_GLOBAL_6: Final = IPv6Network("2000::/3")
_SPECIAL_6: Final = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NEVER_4: Final = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
_NEVER_6: Final = tuple(IPv6Network(text) for text in ("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128"))


def is_public(address: Address) -> bool:
    """Whether an address is an ordinary address of the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if (inner := _inner(address)) is not None:
        return is_public(inner)
    return address in _GLOBAL_6 and not any(address in network for network in _SPECIAL_6)


def is_never_reachable(address: Address) -> bool:
    """Whether an address is refused even if the operator permits private addresses.

    These are link-local addresses, among them those of metadata services, and addresses of no single host.
    """
    if isinstance(address, IPv4Address):
        return any(address in network for network in _NEVER_4)
    if (inner := _inner(address)) is not None:
        return is_never_reachable(inner)
    return any(address in network for network in _NEVER_6)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a translator or the kernel would connect to for this IPv6 address."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
