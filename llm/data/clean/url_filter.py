"""Block lists: addresses that are left out before anything is read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class BlockList:
    """Hosts (with all below them), beginnings of addresses, and words that may not stand in an address.

    All in lower case, addresses without their scheme.
    """

    hosts: frozenset[str]
    prefixes: tuple[str, ...]
    words: frozenset[str]

    @staticmethod
    def of(entries: Iterable[str]) -> BlockList:
        """Returns the list of entries: `casino.com` is a host, `blog.org/ads/` or `https://...` the beginning of an
        address, `casino` a word. White space around an entry and what follows ` #` do not count.
        """
        hosts, prefixes, words = set(), set(), set()
        for entry in filter(None, map(_without_comment, entries)):
            if "/" in entry:
                prefixes.add(_without_scheme(entry))
            elif "." in entry:
                hosts.add(_ascii_host(entry.strip(".")))
            else:
                words.add(entry)
        return BlockList(frozenset(hosts), tuple(sorted(prefixes)), frozenset(words))

    def match(self, url: str) -> str:
        """Returns the entry that blocks `url`, "" if none does."""
        address = _without_scheme(url.lower())
        host = _host(url)
        labels = host.split(".") if self.hosts else []
        for first in range(len(labels)):
            if (name := ".".join(labels[first:])) in self.hosts:
                return name
        found = [prefix for prefix in self.prefixes if address.startswith(prefix)]
        found += self.words.intersection(_WORD.findall(address)) if self.words else []
        return min(found, default="")


def load_block_list(entries: tuple[str, ...], file: str | None) -> BlockList:
    """Returns the block list of some entries and of a text file with an entry a line.

    Raises ValueError when there is no such file or it is no UTF-8 text.
    """
    if file is None:
        return BlockList.of(entries)
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"blocked_urls_file is {file!r}, but there is no such file; paths start at {Path.cwd()}")
    status = path.stat()
    return _read(entries, path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(entries: tuple[str, ...], path: Path, size: int, mtime_ns: int) -> BlockList:
    """The list, read once for all partitions of a process; size and time are there to notice a change."""
    try:
        return BlockList.of([*entries, *path.read_text(encoding="utf-8").splitlines()])
    except UnicodeDecodeError as error:
        raise ValueError(f"blocked_urls_file is {str(path)!r}, which is not UTF-8 text: {error}") from error


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition(" #")[0].strip().lower()


def _without_scheme(address: str) -> str:
    return address.partition("://")[2] or address


def _host(url: str) -> str:
    try:
        return _ascii_host((urlsplit(url).hostname or "").rstrip("."))
    except ValueError:  # a bracket that never closes
        return ""


def _ascii_host(host: str) -> str:
    """A host in the form that a browser sends: `münchen.de` as `xn--mnchen-3ya.de`."""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host
