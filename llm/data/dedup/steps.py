"""The dedup stage: steps that each take one partition, or one range of hashes, and meet the others through files.

    scan      content hashes and paragraph hashes of the documents                         a partition of documents
    count     exact copies; paragraphs that stand in many documents                        a range of hashes
    sign      signatures and shingles of what is not an exact copy                         a partition
    join      the signatures and shingles of all partitions in one place                    the corpus
    pair      candidates: what shares a band of its signature                              bands, a range of their keys
    verify    those that are near duplicates by their exact similarity                     a partition
    decide    clusters, and which document of each is kept                                the corpus
    recount   paragraphs that stand in many of the documents that are left                 a range of hashes
    select    the documents that are left, without those paragraphs                        a partition

The last three are in `dedup_select.py`, join in `signatures.py`.

A document with paragraphs of many documents in it is compared twice, as it is and without them: so boilerplate around
it does not hide that it is a copy. In the end only documents that stay count, so every removed paragraph is still
there once. In memory at once: the largest partition, `RANGE_ENTRIES` entries, and some 150 bytes for each duplicate.
On disk until the artifact is finished: some 3 kB for a document of 220 words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from ...counts import Counts
from ..common.keyed import RANGE_ENTRIES, Numbers, n_ranges, read_range, runs, sorted_entries
from ..common.ngrams import Hashes, batches, hash_texts, hash_words
from ..common.parts import DocumentPart, finished_folders
from .canaries import ESTIMATE, canary_copies, canary_pairs, datasketch_estimate, is_canary, original_of
from .candidates import band_keys, band_shape, bucket_pairs, unique_pairs
from .dedup import DedupConfig, sign
from .paragraphs import is_in, paragraph_keys, without_paragraphs
from .signatures import StoredTexts, save_signatures, similarities

# ---------------------------------------------------------------- scan, count


def scan_part(part: DocumentPart, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes hashes of the contents and of the paragraphs of some documents, sorted, and how preferred each is."""
    table = part.read(["url", "n_chars", "text"])
    texts = table["text"].to_pylist()
    content = [hash_texts(hash_words(batch)) for batch in batches(texts)]
    np.save(out_dir / "content.npy", sorted_entries(np.concatenate([no_keys(), *content]), part.numbers))
    keys, owners = unique_paragraphs(texts, config)
    np.save(out_dir / "paragraphs.npy", sorted_entries(keys, owners + part.start))
    np.save(out_dir / "preference.npy", preference(table["url"].to_pylist(), table["n_chars"].to_numpy(), config))
    return Counts("documents", len(texts), len(texts), {}, {"n_entries": len(texts) + len(keys)})


def preference(urls: list[str], n_chars: Numbers, config: DedupConfig) -> Numbers:
    """Returns a number for each document, `(n,)`: of a cluster the smallest stays, of equal ones the first."""
    if config.keep == "shortest url":
        order = np.array([len(url) for url in urls], dtype=np.int64)
    else:
        order = 2**31 - n_chars.astype(np.int64) if config.keep == "longest" else np.zeros(len(urls), dtype=np.int64)
    ranks = [_host_rank(url, config.preferred_hosts) if config.preferred_hosts else 0 for url in urls]
    return np.array(ranks, dtype=np.int64) * 2**32 + order


def _host_rank(url: str, preferred: tuple[str, ...]) -> int:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # an address that is none, as "http://[": it has no preferred host
        host = ""
    return next((i for i, name in enumerate(preferred) if f".{host}".endswith(f".{name}")), len(preferred))


def unique_paragraphs(texts: list[str], config: DedupConfig) -> tuple[Hashes, Numbers]:
    """Returns the keys of the paragraphs that may be removed and the index of their text, each once in a text."""
    if config.max_paragraph_documents is None:
        return no_keys(), np.zeros(0, dtype=np.int64)
    keys, owners = paragraph_keys(texts, config.min_paragraph_chars)
    order = np.lexsort((keys, owners))
    keys, owners = keys[order], owners[order]
    is_new = np.ones(len(keys), dtype=bool)
    is_new[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    return keys[is_new], owners[is_new]


@dataclass(frozen=True)
class KeyRange:
    """One of `n` equal ranges of all 64-bit keys."""

    index: int
    n: int


def key_ranges(n_entries: float) -> list[KeyRange]:
    """Returns the ranges that so many entries are cut into."""
    n = n_ranges(int(n_entries))
    return [KeyRange(index, n) for index in range(n)]


def count_range(part: KeyRange, scans: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes the exact copies and the keys of the paragraphs of many documents, of one range of hashes."""
    keys, numbers = read_keys(scans, "content.npy", part)
    first, lengths = runs(keys)
    same = np.repeat(numbers[first], lengths)
    copies = np.stack([numbers, same])[:, numbers != same]
    np.save(out_dir / "copies.npy", copies[:, np.argsort(copies[0])])  # (2, n): a copy, the first of its kind
    paragraphs = read_keys(scans, "paragraphs.npy", part)
    np.save(out_dir / "repeated.npy", repeated_keys(*paragraphs, config)[0])
    return Counts("ranges", 1, 1)


def repeated_keys(keys: Hashes, numbers: Numbers, config: DedupConfig) -> tuple[Hashes, Numbers, Numbers]:
    """Returns keys that stand in too many documents, in how many, and the first of these, `(n,)` each."""
    first, lengths = runs(keys)
    is_repeated = lengths > (config.max_paragraph_documents or len(keys))
    first = first[is_repeated]
    return keys[first], lengths[is_repeated], numbers[first]


def read_keys(folders: Path, name: str, part: KeyRange) -> tuple[Hashes, Numbers]:
    """Returns keys of a range, sorted, and their numbers, of all files of that name; one is open at a time."""
    files = (np.load(folder / name, mmap_mode="r") for folder in finished_folders(folders))
    return read_range(files, part.index, part.n)


def no_keys() -> Hashes:
    """Returns an array of none."""
    return np.zeros(0, dtype=np.uint64)


# ---------------------------------------------------------------- sign, pair, verify


def sign_part(
    part: DocumentPart, counted: Path, samples: tuple[int, ...], out_dir: Path, config: DedupConfig
) -> Counts:
    """Writes signatures, shingles and band keys of some documents, and of canaries made of those in `samples`.

    `estimates.npy` has the canaries' similarities with their originals as datasketch sees them.

    A text has the number 2 x that of its document, and 1 more if it is the text without repeated paragraphs.
    """
    texts = part.read(["text"])["text"].to_pylist()
    chosen = np.setdiff1d(part.numbers, read_numbers(counted, "copies.npy", part.start, part.stop)[0])
    numbers, compared = views(chosen, [texts[number - part.start] for number in chosen], counted, config)
    _, signatures = sign(compared, np.array(numbers, dtype=np.int64), config)
    save_signatures(out_dir, "texts", signatures)
    bands = [sorted_entries(keys, signatures.numbers) for keys in band_keys(signatures.rows, config.threshold)]
    np.save(out_dir / "bands.npy", np.stack(bands))  # (n_bands, 2, n_texts)
    copies = [
        copy
        for number in samples
        if number in chosen
        for copy in canary_copies(number, texts[number - part.start], config.ngram, config.threshold)
    ]
    canary_numbers = np.array([copy.number for copy in copies], dtype=np.int64)
    estimates = [
        (copy.number, datasketch_estimate(texts[copy.original - part.start], copy.text, config.ngram))
        for copy in copies
    ]
    np.save(out_dir / "estimates.npy", np.array(estimates, dtype=ESTIMATE))
    save_signatures(out_dir, "canaries", sign([copy.text for copy in copies], canary_numbers, config)[1])
    return Counts("documents", len(texts), len(texts), {}, {"n_entries": len(compared)})


def views(chosen: Numbers, texts: list[str], counted: Path, config: DedupConfig) -> tuple[list[int], list[str]]:
    """Numbers and texts to compare: each text, and after it the text without repeated paragraphs if it has some."""
    repeated = np.concatenate([no_keys(), *load_all(counted, "repeated.npy")])
    keys, owners = unique_paragraphs(texts, config)
    is_repeated = is_in(keys, repeated)
    unwanted = frozenset(keys[is_repeated].tolist())
    affected = set(owners[is_repeated].tolist())
    numbers: list[int] = []
    compared: list[str] = []
    for i, (number, text) in enumerate(zip(chosen.tolist(), texts, strict=True)):
        numbers.append(2 * number)
        compared.append(text)
        own = without_paragraphs(text, unwanted, config.min_paragraph_chars) if i in affected else ""
        if len(own) >= max(1, config.min_chars_left):
            numbers.append(2 * number + 1)
            compared.append(own)
    return numbers, compared


@dataclass(frozen=True)
class BandRange:
    """Some bands of the signatures (`first` to `end`, exclusive) and one range of their keys."""

    first: int
    end: int
    keys: KeyRange


def band_ranges(n_entries: float, config: DedupConfig) -> list[BandRange]:
    """Returns all bands of so many signatures; large ones are cut into ranges, small ones taken together."""
    n_bands, _ = band_shape(config.threshold, config.n_permutations)
    n_together = max(1, RANGE_ENTRIES // max(1, int(n_entries)))
    starts = range(0, n_bands, n_together)
    return [BandRange(i, min(i + n_together, n_bands), keys) for i in starts for keys in key_ranges(n_entries)]


def pair_band(part: BandRange, signatures: Path, joined: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes the candidate pairs of some bands and a range of keys, `(2, n_pairs)`, in order of the smaller number."""
    with StoredTexts.open(joined, config.n_permutations) as texts:
        positions = np.flatnonzero(is_canary(texts.numbers))
        canaries, canary_keys = texts.numbers[positions], band_keys(texts.signatures_of(positions), config.threshold)
    found = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(part.first, part.end):
        files = (np.load(folder / "bands.npy", mmap_mode="r")[band] for folder in finished_folders(signatures))
        keys, numbers = read_range(files, part.keys.index, part.keys.n)
        found += [bucket_pairs(keys, numbers), canary_pairs(keys, numbers, canary_keys[band], canaries)]
    pairs = np.concatenate(found)
    of_two_documents = pairs[:, 0] // 2 != pairs[:, 1] // 2
    np.save(out_dir / "pairs.npy", unique_pairs(pairs[of_two_documents]).T)
    return Counts("bands", 1, 1)


def verify_part(part: DocumentPart, joined: Path, paired: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes the near duplicates among the candidates whose smaller number is of this partition, `(2, n_pairs)`."""
    pairs = unique_pairs(read_numbers(paired, "pairs.npy", 2 * part.start, 2 * part.stop).T)
    with StoredTexts.open(joined, config.n_permutations) as texts:
        is_near = similarities(pairs, texts, config.threshold) >= config.threshold
    np.save(out_dir / "near.npy", pairs[is_near].T)
    return Counts("partitions", 1, 1)


def document_of(numbers: Numbers) -> Numbers:
    """Returns the documents that texts are of, or that canaries were made of."""
    return np.where(is_canary(numbers), original_of(numbers), numbers // 2)


def load_all(folders: Path, name: str) -> list[npt.NDArray[Any]]:
    """Returns the small arrays that a step has left in its folders, in order."""
    return [np.load(folder / name) for folder in finished_folders(folders)]


def read_numbers(folders: Path, name: str, start: int, stop: int) -> Numbers:
    """Returns the columns with a first number from `start` to `stop` (exclusive), `(2, n)`.

    Each file is in order of that.
    """
    found = [np.zeros((2, 0), dtype=np.int64)]
    for folder in finished_folders(folders):
        columns = np.load(folder / name, mmap_mode="r")
        first, end = np.searchsorted(columns[0], [start, stop])
        found.append(np.array(columns[:, first:end]))
    return np.concatenate(found, axis=1)
