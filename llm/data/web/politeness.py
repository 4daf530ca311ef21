"""Who is crawling: sites that are not one's own must be able to reach the person behind a crawler."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from .links import DEFAULT_PORTS, parse_host_port

_CONTACT = re.compile(r"\+?https?://[\w-]+(\.[\w-]+)+|[\w.+-]+@[\w-]+(\.[\w-]+)+")


def require_contact(user_agent: str, seeds: Iterable[str], allow_private: Iterable[str]) -> None:
    """Raises ValueError when seeds (canonical URLs) lie outside of one's own machine or network and nobody is named.

    One's own are the places of `allow_private`, and hosts that are by their name on this machine.
    """
    own = {parse_host_port(place) for place in allow_private}
    foreign = [seed for seed in seeds if not _is_own(seed, own)]
    if foreign and not _CONTACT.search(user_agent):
        raise ValueError(
            f"user_agent is {user_agent!r}, but {foreign[0]} is somebody else's and must be able to reach you; "
            f"add an address, such as '{user_agent} (+https://example.org/crawler)' or '{user_agent} (me@example.org)'"
        )


def _is_own(url: str, own: set[tuple[str, int]]) -> bool:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if (host, parts.port or DEFAULT_PORTS[parts.scheme]) in own or host == "localhost":
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
