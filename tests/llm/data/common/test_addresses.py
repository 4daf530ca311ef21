"""Which addresses are public: the edges of every network of the table, and every way to write one."""

from __future__ import annotations

import ipaddress
import subprocess
import sys

import pytest

from llm.data.common import addresses
from llm.data.common.addresses import GIVEN_OUT, SPECIAL_NETWORKS, TRANSLATED, private_kind

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "128.0.0.0",
    "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.88.98.255", "192.88.100.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2000::", "2001:200::1", "2001:4860:4860::8888",
    "2606:2800:220:1::1946", "2003::1", "3fff:1000::1", "2001:db7::1", "2001:db9::1",
]  # fmt: skip
PRIVATE = {
    "fec0::1": "a site-local", "3fff::1": "a documentation", "192.88.99.1": "a 6to4 relay's",
    "5f00::1": "a segment routing", "64:ff9b:1::808:808": "a local NAT64", "2002:808:808::1": "a 6to4",
    "2001:0:808:808::1": "a Teredo", "::8.8.8.8": "an IPv4-compatible", "::ffff:10.0.0.1": "a private",
    "::ffff:192.88.99.1": "a 6to4 relay's", "64:ff9b::169.254.169.254": "a link-local", "fe80::1%eth0": "a link-local",
    "2606:2800:220:1::1946%eth0": "a scoped", "255.255.255.255": "a reserved", "4000::1": "a reserved",
    "0100::1": "a discard-only", "100:0:0:1::1": "a dummy", "200::1": "a reserved", "0.0.0.0": "an unspecified",
    "0.1.2.3": "a private", "ff0e::1": "a multicast", "2001:2::1": "a benchmarking", "2001:20::1": "a reserved",
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert private_kind(address) is None


@pytest.mark.parametrize(("address", "kind"), PRIVATE.items())
def test_private(address: str, kind: str) -> None:
    assert private_kind(address) == kind


def test_both_ends_of_every_network_of_the_table_are_private_written_in_any_way() -> None:
    for text in SPECIAL_NETWORKS:
        network = ipaddress.ip_network(text)
        for ip in (network[0], network[-1]):
            assert private_kind(str(ip)), text
            if ip.version == 4:
                forms = [str(ipaddress.ip_network(way)[int(ip)]) for way in TRANSLATED]
                assert [private_kind(form) for form in forms] == [private_kind(str(ip))] * len(forms)


def test_whatever_python_calls_private_is_private_here() -> None:
    inside = [network for text in SPECIAL_NETWORKS if (network := ipaddress.ip_network(text)).version == 4]
    for first in range(0, 2**32, 2**14 + 1):
        ip = ipaddress.IPv4Address(first)
        assert (private_kind(str(ip)) is None) == (not any(ip in network for network in inside))
        assert ip.is_global or private_kind(str(ip)), ip
    assert ipaddress.ip_network("2000::/3") == GIVEN_OUT


def test_what_is_no_address_is_refused() -> None:
    for text in ("localhost", "", "%eth0", "1.2.3", "0x7f000001", "1.2.3.4.5", "::g"):
        with pytest.raises(ValueError, match="address"):
            private_kind(text)


def test_the_table_needs_nothing_but_the_standard_library() -> None:
    """So any Python can be asked, such as `PATH=... python3.13`: the answers follow from the table alone."""
    program = f"import runpy; m = runpy.run_path({addresses.__file__!r}); print(m['private_kind']('fec0::1'))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "a site-local\n"
