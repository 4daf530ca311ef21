"""Which IP addresses are public: a table of our own, because `ipaddress.is_global` differs from one Python to the next.

Source: IANA's registries of special-purpose addresses for IPv4 and IPv6 (https://www.iana.org/assignments/, as of
2024-10-22), and RFC 4291 with RFC 3513 (of IPv6, only 2000::/3 is given out). Blocks that are registered as globally
reachable within one that is not (anycast of a local gateway, identifiers without a route) count as what surrounds them.
"""

from __future__ import annotations

import functools
import ipaddress

SPECIAL_NETWORKS = {
    "0.0.0.0/32": "an unspecified",
    "0.0.0.0/8": "a private",  # RFC 791: this network
    "10.0.0.0/8": "a private",  # RFC 1918
    "100.64.0.0/10": "a private",  # RFC 6598: shared by a provider's customers
    "127.0.0.0/8": "a loopback",
    "169.254.0.0/16": "a link-local",  # RFC 3927; clouds answer here with credentials
    "172.16.0.0/12": "a private",  # RFC 1918
    "192.0.0.0/24": "a reserved",  # RFC 6890: protocol assignments
    "192.0.2.0/24": "a documentation",  # RFC 5737
    "192.88.99.0/24": "a 6to4 relay's",  # RFC 7526: deprecated
    "192.168.0.0/16": "a private",  # RFC 1918
    "198.18.0.0/15": "a benchmarking",  # RFC 2544
    "198.51.100.0/24": "a documentation",
    "203.0.113.0/24": "a documentation",
    "224.0.0.0/4": "a multicast",
    "240.0.0.0/4": "a reserved",  # RFC 1112, and the broadcast address
    "::/128": "an unspecified",
    "::1/128": "a loopback",
    "::/96": "an IPv4-compatible",  # RFC 4291: deprecated
    "64:ff9b:1::/48": "a local NAT64",  # RFC 8215
    "100::/64": "a discard-only",  # RFC 6666
    "100:0:0:1::/64": "a dummy",  # RFC 9780
    "2001::/32": "a Teredo",  # RFC 4380
    "2001:2::/48": "a benchmarking",  # RFC 5180
    "2001::/23": "a reserved",  # RFC 2928: protocol assignments
    "2001:db8::/32": "a documentation",  # RFC 3849
    "2002::/16": "a 6to4",  # RFC 3056
    "3fff::/20": "a documentation",  # RFC 9637
    "5f00::/16": "a segment routing",  # RFC 9602
    "fc00::/7": "a private",  # RFC 4193
    "fe80::/10": "a link-local",
    "fec0::/10": "a site-local",  # RFC 3879: deprecated
    "ff00::/8": "a multicast",
}
"""What is not public, in words for a message; where several networks hold an address, the first one counts."""

TRANSLATED = ("::ffff:0:0/96", "64:ff9b::/96")
"""IPv6 networks whose addresses are a way to write, or to reach (RFC 6052: NAT64), the IPv4 address at their end."""
GIVEN_OUT = ipaddress.ip_network("2000::/3")
"""The IPv6 addresses that are given out at all (RFC 4291, IANA's registry of the address space)."""

_SPECIAL = [(ipaddress.ip_network(network), kind) for network, kind in SPECIAL_NETWORKS.items()]
_TRANSLATED = [ipaddress.ip_network(network) for network in TRANSLATED]


@functools.lru_cache(maxsize=4_096)
def private_kind(address: str) -> str | None:
    """Returns what makes an IP address not a public one ("a loopback", "a private", ...), or None for a public address.

    An address with a scope (`fe80::1%eth0`) is never public. Raises ValueError for what is no IP address.
    """
    plain, scope, _ = address.partition("%")
    ip = ipaddress.ip_address(plain)
    if any(ip in network for network in _TRANSLATED):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    found = next((kind for network, kind in _SPECIAL if ip in network), None)
    if found is None and ip.version == 6 and ip not in GIVEN_OUT:
        found = "a reserved"
    return found or ("a scoped" if scope else None)
