"""Duplicates: exact by a hash, near ones by MinHash and banding, every pair checked by its exact Jaccard similarity.

Two texts are near duplicates if the Jaccard similarity of their sets of word n-grams is at least `threshold`. Clusters
are the connected components of that relation, and one document of each is kept. This module has the settings and the
comparison of texts in memory; `dedup_steps.py` does the same for a corpus in files, partition by partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...config import Config, setting
from ..common.canary_check import CanaryCheck
from ..common.components import components
from ..common.keyed import Numbers, sorted_entries
from ..common.ngrams import Hashes
from .candidates import band_keys, bucket_pairs, group_equal, unique_pairs
from .minhash import Signatures
from .signatures import TextSignatures, sign_texts, similarities


@dataclass(frozen=True, kw_only=True)
class DedupConfig(Config):
    """What counts as a duplicate, and which copy stays."""

    threshold: float = setting(0.8, at_least=0.1, at_most=1)
    """Smallest Jaccard similarity of two near duplicates, from 0.1 to 1."""

    ngram: int = setting(5, at_least=1)
    """Words in each of the n-grams that are compared."""

    n_permutations: int = setting(128, at_least=16)
    """Length of a MinHash signature. More of them find the pairs at the threshold more surely, and cost time."""

    seed: int = setting(1, at_least=0)
    """Seed of the permutations."""

    keep: Literal["shortest url", "longest", "first"] = "shortest url"
    """Which document of a cluster stays: that with the `shortest url` (most often the canonical address, without a
    query, a date or "/print/"), the `longest`, or the `first` of the source (the oldest, if that is in order of date).
    Of equal ones the first."""

    preferred_hosts: tuple[str, ...] = ()
    """Hosts ("docs.python.org"; their subdomains too) whose documents stay before all others, the first named first."""

    max_paragraph_documents: int | None = setting(10, at_least=1)
    """A paragraph that stands in more documents than this is removed from all but the first; empty removes none."""

    min_paragraph_chars: int = setting(80, at_least=1)
    """Never remove a paragraph shorter than this, in characters: headings, "Returns", one-line notes."""

    min_chars_left: int = setting(100, at_least=0)
    """Drop a document of which the removed paragraphs leave less than this, in characters."""

    canary_check: CanaryCheck = CanaryCheck()
    """When to stop the run: canaries not found, or too much dropped for one reason."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for host in self.preferred_hosts:
            if not host or "/" in host or host != host.lower():
                raise ValueError(
                    f"preferred_hosts has {host!r}; allowed: names of hosts in lower case, as in docs.python.org"
                )


def sign(texts: Sequence[str], numbers: Numbers, config: DedupConfig) -> tuple[Hashes, TextSignatures]:
    """Returns the content hashes of some texts, `(n,)`, and the texts ready to be compared, under the numbers given."""
    shape = {"ngram": config.ngram, "n_permutations": config.n_permutations, "seed": config.seed}
    return sign_texts(texts, numbers, **shape)


def candidate_pairs(rows: Signatures, numbers: Numbers, threshold: float) -> Numbers:
    """Returns the pairs of numbers whose signatures share a band, `(n_pairs, 2)`, in order, once, the smaller first.

    `rows` is `(n, n_permutations)`, `numbers` `(n,)`, ascending.
    """
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for keys in band_keys(rows, threshold):
        in_order, numbers_in_order = sorted_entries(keys, numbers)
        pairs.append(bucket_pairs(in_order, numbers_in_order.view(np.int64)))
    return unique_pairs(np.concatenate(pairs))


def duplicate_clusters(texts: Sequence[str], config: DedupConfig) -> Numbers:
    """Returns for each text the index of the first text of its cluster, `(n_texts,)`.

    A text without duplicates has its own.

    Holds signatures and shingles of all texts in memory, about 5 bytes a character.
    """
    content, signatures = sign(texts, np.arange(len(texts)), config)
    return cluster_signatures(content, signatures, config.threshold)


def cluster_signatures(content: Hashes, signatures: TextSignatures, threshold: float) -> Numbers:
    """Returns for each text the index of the first of its cluster, `(n_texts,)`.

    `signatures` has the numbers 0, 1, 2...

    Of texts with equal content hashes only the first is compared.
    """
    first_equal = group_equal(content)
    unique = np.unique(first_equal)
    pairs = candidate_pairs(signatures.rows[unique], unique, threshold)
    near = pairs[similarities(pairs, signatures, threshold) >= threshold]
    exact = np.stack([signatures.numbers, first_equal], axis=1)
    return components(np.concatenate([near, exact]))[1]
