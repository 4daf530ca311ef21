"""Duplicates: exact by a hash, near ones by MinHash and banding, every candidate pair checked by its exact Jaccard.

MinHash: Broder (1997), "On the resemblance and containment of documents"; banding: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4. Two texts are near duplicates if the Jaccard similarity of their sets of word
n-grams is at least `threshold`. Clusters are the connected components of that relation. Each keeps one document: the
one with the shortest URL (of equal ones the first in the alphabet). That is most often the canonical address, without a
query, a date or "/print/", and it depends neither on partitions nor on the split: the one kept stays what it was, train
or held-out, so no text is on both sides and the share held out is not bent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ..config import Config, setting
from ..counts import Counts
from ..files import read_table, write_table

EXACT, NEAR = "exact duplicate", "near duplicate"
CLUSTER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.string()),  # id of the document that is kept of it
        ("kept", pa.bool_()),
        ("jaccard", pa.float32()),  # similarity with the kept document
        ("reason", pa.string()),  # why it is dropped, "" for the kept one
    ]
)
MIN_RECALL = 0.995  # of the pairs right at the threshold; those more alike are found more surely
MAX_NEIGHBOURS = 16  # in a bucket: bounds the pairs of a template that thousands of pages share

Signatures = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]
ShingleHashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class DedupConfig(Config):
    """What counts as a duplicate."""

    threshold: float = setting(0.8, at_least=0.1, at_most=1)
    """Smallest Jaccard similarity of two near duplicates, from 0.1 to 1."""

    ngram: int = setting(5, at_least=1)
    """Words in each of the n-grams that are compared."""

    n_permutations: int = setting(120, at_least=16)
    """Length of a MinHash signature. More of them find the pairs at the threshold more surely, and cost time."""

    seed: int = setting(1, at_least=0)
    """Seed of the permutations."""


# ---------------------------------------------------------------- texts


def content_hash(text: str) -> bytes:
    """16 bytes that are equal for texts of the same words: case and white space do not count."""
    return xxhash.xxh3_128_digest(" ".join(text.lower().split()).encode())


def shingles(text: str, ngram: int) -> set[str]:
    """The word n-grams of a text, lower-cased; a text of fewer words is its own only shingle."""
    words = text.lower().split()
    return {" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))}


def shingle_hashes(text: str, ngram: int) -> ShingleHashes:
    """The shingles of a text as sorted 64-bit hashes (of a million, two collide with odds of 1 to 37 million)."""
    hashes = [xxhash.xxh3_64_intdigest(shingle.encode()) for shingle in shingles(text, ngram)]
    return np.unique(np.array(hashes, dtype=np.uint64))


def jaccard(a: ShingleHashes, b: ShingleHashes) -> float:
    """The size of the intersection over that of the union, of two sorted sets that are not empty."""
    n_common = np.intersect1d(a, b, assume_unique=True).size
    return n_common / (a.size + b.size - n_common)


def signatures(texts: Iterable[str], config: DedupConfig) -> Signatures:
    """MinHash signatures, `(n_texts, n_permutations)`: equal entries estimate the Jaccard similarity of two texts."""
    from datasketch import MinHash

    encoded = ([shingle.encode() for shingle in shingles(text, config.ngram)] for text in texts)
    hashes = MinHash.generator(
        encoded,
        num_perm=config.n_permutations,
        seed=config.seed,
        hashfunc=xxhash.xxh32_intdigest,
        scheme="affine32",
    )
    rows = [minhash.hashvalues for minhash in hashes]
    return np.array(rows, dtype=np.uint32).reshape(len(rows), config.n_permutations)


# ---------------------------------------------------------------- pairs and clusters


def band_shape(threshold: float, n_permutations: int) -> tuple[int, int]:
    """Bands and rows per band: the longest bands that still find pairs at the threshold with `MIN_RECALL`.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    for n_rows in range(n_permutations, 0, -1):
        n_bands = n_permutations // n_rows
        if 1 - (1 - threshold**n_rows) ** n_bands >= MIN_RECALL:
            return n_bands, n_rows
    return n_permutations, 1


def candidate_pairs(rows: Signatures, threshold: float) -> Indices:
    """Pairs of rows that share a band, `(n_pairs, 2)`, sorted, each once and smaller index first.

    In a bucket of more than `MAX_NEIGHBOURS` rows each is paired with those that follow it: a chain, which joins them
    all if neighbours are alike.
    """
    n_bands, n_rows = band_shape(threshold, rows.shape[1])
    codes = np.empty(0, dtype=np.int64)
    for band in range(n_bands):
        found = _bucket_pairs(rows[:, band * n_rows : (band + 1) * n_rows])
        codes = np.union1d(codes, found[:, 0] * len(rows) + found[:, 1])
    return np.stack([codes // max(1, len(rows)), codes % max(1, len(rows))], axis=1)  # (n_pairs, 2)


def _bucket_pairs(band: Signatures) -> Indices:
    """Pairs of equal rows of one band, `(n_pairs, 2)`: sorting brings equal rows together."""
    order = np.lexsort(band.T)  # stable: equal rows stay in index order
    in_order = band[order]
    is_new = np.any(in_order[1:] != in_order[:-1], axis=1)
    bucket = np.concatenate([[0], np.cumsum(is_new)])  # (n_rows,) number of the run of equal rows
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for distance in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
        first = np.flatnonzero(bucket[distance:] == bucket[:-distance])
        if first.size == 0:
            break
        pairs.append(np.stack([order[first], order[first + distance]], axis=1))
    return np.concatenate(pairs)


def likely_pairs(rows: Signatures, config: DedupConfig) -> Indices:
    """The candidate pairs, `(n_pairs, 2)`, whose signatures do not rule out a Jaccard similarity at the threshold."""
    pairs = candidate_pairs(rows, config.threshold)
    # Four standard deviations of the estimate: fewer than one pair in 30,000 at the threshold is lost.
    slack = 4 * (config.threshold * (1 - config.threshold) / config.n_permutations) ** 0.5
    chunks = np.array_split(pairs, max(1, len(pairs) // 100_000))
    return np.concatenate([chunk[_agreement(rows, chunk) >= config.threshold - slack] for chunk in chunks])


def _agreement(rows: Signatures, pairs: Indices) -> npt.NDArray[np.float64]:
    """Share of equal entries in the signatures of each pair, `(n_pairs,)`."""
    return np.mean(rows[pairs[:, 0]] == rows[pairs[:, 1]], axis=1)


def components(pairs: Indices, n: int) -> Indices:
    """For each of `n` nodes the smallest node it is connected with, `(n,)`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


ShinglesOf = Callable[[Indices], Mapping[int, ShingleHashes]]
"""Gives the shingle hashes of the texts with the given indices: only the texts of candidates are ever needed."""


def cluster_signatures(
    hashes: Sequence[bytes], rows: Signatures, shingles_of: ShinglesOf, config: DedupConfig
) -> tuple[Indices, npt.NDArray[np.float32]]:
    """For each text the first one of its cluster, `(n_texts,)`, and its Jaccard similarity with that, `(n_texts,)`.

    `hashes` are content hashes, `rows` signatures. In a chain of near duplicates the similarity with the first text may
    lie under the threshold.
    """
    numbers: dict[bytes, int] = {}
    first_equal = np.array([numbers.setdefault(hash, i) for i, hash in enumerate(hashes)], dtype=np.int64)
    unique = np.unique(first_equal)
    pairs = unique[likely_pairs(rows[unique], config)]
    known = shingles_of(np.unique(pairs))
    alike = [jaccard(known[i], known[j]) >= config.threshold for i, j in pairs]
    same = np.stack([np.arange(len(hashes)), first_equal], axis=1)
    first = components(np.concatenate([pairs[np.array(alike, dtype=bool)], same]), len(hashes))
    similarity = [1.0 if i == j else jaccard(known[i], known[j]) for i, j in zip(first_equal, first, strict=True)]
    return first, np.array(similarity, dtype=np.float32)


def duplicate_clusters(texts: Sequence[str], config: DedupConfig) -> Indices:
    """For each text the index of the first text of its cluster, `(n_texts,)`; a text without duplicates has its own."""
    hashes = [content_hash(text) for text in texts]

    def shingles_of(indices: Indices) -> dict[int, ShingleHashes]:
        return {i: shingle_hashes(texts[i], config.ngram) for i in indices}

    return cluster_signatures(hashes, signatures(texts, config), shingles_of, config)[0]


# ---------------------------------------------------------------- the stage: sign, cluster, select


def sign_partition(documents: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes `signatures.parquet` for one file of documents: id, content hash, MinHash signature, row for row."""
    table = read_table(documents, columns=["id", "text"])
    texts = table["text"].to_pylist()
    rows = signatures(texts, config).astype("<u4")
    columns = {
        "id": table["id"],
        "content_hash": pa.array([content_hash(text) for text in texts], type=pa.binary(16)),
        "signature": pa.array([row.tobytes() for row in rows], type=pa.binary(4 * config.n_permutations)),
    }
    write_table(out_dir / "signatures.parquet", pa.table(columns))
    return Counts("documents", len(texts), len(texts))


def cluster_documents(documents: list[Path], signatures: list[Path], out_path: Path, config: DedupConfig) -> None:
    """Writes `clusters.parquet`: the documents that have duplicates, cluster by cluster, the one that is kept first.

    `documents` and `signatures` correspond. `jaccard` is the similarity with the kept document. The clusters are the
    same however the documents are cut into files. Holds all signatures (4 bytes x `n_permutations` a document) in
    memory, and the texts of one file at a time.
    """
    index = pa.concat_tables([read_table(path, columns=["id", "url"]) for path in documents])
    signed = pa.concat_tables([read_table(path) for path in signatures])
    if index["id"] != signed["id"]:
        raise ValueError("the signatures are of other documents: make them anew from these documents")
    index = index.append_column("url_length", pc.utf8_length(index["url"]))
    order = pc.sort_indices(index, [(key, "ascending") for key in ("url_length", "url", "id")])
    signed = signed.take(order)
    ids, hashes = signed["id"].to_pylist(), signed["content_hash"].to_pylist()
    rows = np.frombuffer(b"".join(signed["signature"].to_pylist()), dtype="<u4").reshape(-1, config.n_permutations)

    def shingles_of(indices: Indices) -> dict[int, ShingleHashes]:
        number_of = {ids[i]: int(i) for i in indices}
        return {number_of[id]: hashes for id, hashes in _read_shingles(documents, number_of, config.ngram)}

    first, similarity = cluster_signatures(hashes, rows, shingles_of, config)
    write_table(out_path, _cluster_table(ids, hashes, first, similarity))


def _read_shingles(documents: list[Path], wanted: Collection[str], ngram: int) -> Iterator[tuple[str, ShingleHashes]]:
    """Id and shingle hashes of the wanted documents."""
    for path in documents:
        table = read_table(path, columns=["id", "text"])
        table = table.filter(pc.is_in(table["id"], value_set=pa.array(wanted, type=pa.string())))
        for id, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            yield id, shingle_hashes(text, ngram)


def _cluster_table(
    ids: list[str], hashes: list[bytes], first: Indices, similarity: npt.NDArray[np.float32]
) -> pa.Table:
    sizes = np.bincount(first, minlength=len(first))
    rows = []
    for i in np.argsort(first, kind="stable"):  # the first of a cluster has the smallest index: it leads
        kept = int(first[i])
        if sizes[kept] > 1:
            reason = "" if i == kept else EXACT if hashes[i] == hashes[kept] else NEAR
            row = {"id": ids[i], "cluster": ids[kept], "kept": i == kept, "jaccard": similarity[i], "reason": reason}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=CLUSTER_SCHEMA)


def select_partition(documents: Path, clusters: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes `documents.parquet`: those of one file of documents that no cluster drops, in their order.

    Counts documents; the figures are n_chars and n_held_out of those kept. Where every document of a corpus is dropped
    `n_out` is 0 in all partitions.
    """
    table = read_table(documents)
    decided = read_table(clusters, columns=["id", "reason"])
    reason_of = dict(zip(decided["id"].to_pylist(), decided["reason"].to_pylist(), strict=True))
    reasons = [reason_of.get(id, "") for id in table["id"].to_pylist()]
    kept = table.filter(pa.array([reason == "" for reason in reasons], type=pa.bool_()))
    write_table(out_dir / "documents.parquet", kept)
    dropped = Counter(reason for reason in reasons if reason)
    figures = {"n_chars": pc.sum(kept["n_chars"]).as_py() or 0, "n_held_out": pc.sum(kept["held_out"]).as_py() or 0}
    return Counts("documents", table.num_rows, kept.num_rows, dict(dropped), figures)
