"""The labelled pages of WCXB (CC-BY-4.0): read, split by domain, and the measure that the benchmark uses."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SEED = 20261120
_WORD = re.compile(r"\w+")
_SECOND_LEVEL = frozenset(["ac", "co", "com", "edu", "gov", "net", "org"])


@dataclass(frozen=True)
class LabelledPage:
    """A page, the text that people marked as its main content, and its registered domain."""

    id: str
    html: bytes
    url: str
    domain: str
    type: str
    main_content: str


def read_pages(data: Path) -> list[LabelledPage]:
    """The pages of `ground-truth.jsonl.gz` and `html/<id>.html.gz`, by id."""
    with gzip.open(data / "ground-truth.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        LabelledPage(
            row["id"],
            gzip.decompress((data / "html" / f"{row['id']}.html.gz").read_bytes()),
            row["url"],
            registered_domain(row["url"]),
            row["page_type"],
            row["main_content"] or "",
        )
        for row in sorted(rows, key=lambda row: row["id"])
    ]


def registered_domain(url: str) -> str:
    """The part of a host name that somebody registered ("docs.example.co.uk" -> "example.co.uk"), near enough."""
    labels = (urlsplit(url).hostname or url).split(".")
    has_second_level = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3 if has_second_level else -2 :])


def by_domain(pages: Iterable[LabelledPage]) -> dict[str, list[LabelledPage]]:
    """The pages of each domain, domains in the order of their first page."""
    domains: dict[str, list[LabelledPage]] = defaultdict(list)
    for page in pages:
        domains[page.domain].append(page)
    return domains


def fold_of_domain(pages: Iterable[LabelledPage], shares: list[float], seed: int = SEED) -> dict[str, int]:
    """Deals the domains into as many folds as there are shares, those of each page type alike; pages keep together."""
    by_type: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for domain, members in by_domain(pages).items():
        commonest = Counter(page.type for page in members).most_common(1)[0][0]
        by_type[commonest].append((domain, len(members)))
    dealer, fold = random.Random(seed), {}
    for _, domains in sorted(by_type.items()):
        domains = sorted(domains)
        dealer.shuffle(domains)
        dealt = [0.0] * len(shares)
        for domain, n_pages in domains:
            emptiest = min(range(len(shares)), key=lambda k: dealt[k] / shares[k])
            fold[domain] = emptiest
            dealt[emptiest] += n_pages
    return fold


def split_pages(pages: list[LabelledPage]) -> tuple[list[LabelledPage], list[LabelledPage]]:
    """The pages to look at (60 %) and those to score on (40 %): no domain is in both."""
    fold = fold_of_domain(pages, [0.6, 0.4])
    return [page for page in pages if fold[page.domain] == 0], [page for page in pages if fold[page.domain] == 1]


def word_list(text: str) -> list[str]:
    """The words of a text as WCXB counts them."""
    return _WORD.findall(text.lower())


def word_f1(text: str, truth: str) -> float:
    """F1 of two texts as multisets of words; 1 if both are empty."""
    found, wanted = word_list(text), word_list(truth)
    if not found or not wanted:
        return float(found == wanted)
    n_common = (Counter(found) & Counter(wanted)).total()
    return 2 * n_common / (len(found) + len(wanted))
