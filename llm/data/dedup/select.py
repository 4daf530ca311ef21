"""The dedup stage, second half: what each cluster keeps, and the documents that stay without repeated paragraphs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...counts import Counts
from ...documents import DOCUMENT_SCHEMA
from ...files import read_table, write_table
from ..common.canary_check import CanaryResult
from ..common.components import components
from ..common.drops import EXCERPT_CHARS, Dropped, write_dropped
from ..common.keyed import Numbers
from ..common.parts import DocumentPart, finished_folders
from .canaries import is_canary, kind_of, original_of, require_agreement
from .dedup import DedupConfig
from .paragraphs import is_in, paragraph_key, split_paragraphs, without_paragraphs
from .signatures import StoredTexts, similarities
from .steps import KeyRange, document_of, load_all, read_keys, repeated_keys, unique_paragraphs

EXACT, NEAR, REPEATED = "exact duplicate", "near duplicate", "repeated paragraphs"
CLUSTER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.string()),  # id of the document that is kept of it
        ("kept", pa.bool_()),
        ("jaccard", pa.float32()),  # similarity with the kept document, of the whole texts
        ("reason", pa.string()),  # why it is dropped, "" for the kept one
    ]
)
PARAGRAPH_SCHEMA = pa.schema([("paragraph", pa.string()), ("n_documents", pa.int64()), ("n_removed", pa.int64())])
DECIDED = np.dtype([("document", "<i8"), ("kept_id", "S32"), ("jaccard", "<f4"), ("is_exact", "?")])


@dataclass(frozen=True)
class Clusters:
    """The documents that have duplicates, in order of number; `(n,)` each.

    `kept` is the document that stays of the cluster, `jaccard` the similarity with it, `is_exact` whether it says the
    same.
    """

    documents: Numbers
    kept: Numbers
    jaccard: npt.NDArray[np.float64]
    is_exact: npt.NDArray[np.bool_]


def find_clusters(
    parts: list[DocumentPart], scans: Path, counted: Path, verified: Path, texts: StoredTexts
) -> Clusters:
    """Returns the clusters of exact and near duplicates.

    In a chain of near duplicates the similarity with the kept document may lie under the threshold; so it may where
    documents are near duplicates without their repeated paragraphs only.
    """
    copies = np.concatenate(load_all(counted, "copies.npy"), axis=1)  # (2, n)
    near = np.concatenate(load_all(verified, "near.npy"), axis=1)
    near = document_of(near[:, ~is_canary(near[1])])
    documents, first = components(np.concatenate([copies, near], axis=1).T)
    kept = _preferred(documents, first, parts, scans)
    original = documents.copy()
    original[np.searchsorted(documents, copies[0])] = copies[1]
    compared = np.stack([original, original[np.searchsorted(documents, kept)]], axis=1)
    is_exact = compared[:, 0] == compared[:, 1]
    similarity = np.ones(len(documents))
    similarity[~is_exact] = similarities(2 * compared[~is_exact], texts, 0.0)
    return Clusters(documents, kept, similarity, is_exact)


def _preferred(documents: Numbers, first: Numbers, parts: list[DocumentPart], scans: Path) -> Numbers:
    """For each document the one that stays of its cluster; `first` names the clusters, all `(n,)`."""
    folders = finished_folders(scans)

    def read_preference(part: DocumentPart, rows: Numbers) -> Numbers:
        return np.load(folders[part.index] / "preference.npy")[rows]

    rank = np.concatenate([np.zeros(0, dtype=np.int64), *_by_part(documents, parts, read_preference)])
    order = np.lexsort((documents, rank, first))
    leads = np.ones(len(order), dtype=bool)
    leads[1:] = first[order][1:] != first[order][:-1]
    kept = np.empty_like(documents)
    kept[order] = documents[order][leads][np.cumsum(leads) - 1]
    return kept


def _by_part(
    documents: Numbers, parts: list[DocumentPart], read: Callable[[DocumentPart, Numbers], Any]
) -> Iterator[Any]:
    """What `read` gives for the rows of each partition in which some of the documents lie, in order."""
    ends = np.searchsorted(documents, [part.stop for part in parts])
    for part, rows in zip(parts, np.split(documents, ends[:-1]), strict=True):
        if len(rows):
            yield read(part, rows - part.start)


def write_clusters(clusters: Clusters, parts: list[DocumentPart], path: Path, decided: Path) -> None:
    """Writes the table `clusters.parquet`, cluster by cluster and the kept document first, and the array `decided`.

    That has a row of `DECIDED` for each dropped document, in order of number.
    """

    def read_ids(part: DocumentPart, rows: Numbers) -> pa.ChunkedArray:
        return part.read(["id"])["id"].take(rows)

    chunks = [chunk for ids in _by_part(clusters.documents, parts, read_ids) for chunk in ids.chunks]
    ids = pa.chunked_array(chunks, type=pa.string()).combine_chunks()
    kept_ids = ids.take(np.searchsorted(clusters.documents, clusters.kept))
    is_kept = clusters.documents == clusters.kept
    reasons = np.where(is_kept, "", np.where(clusters.is_exact, EXACT, NEAR))
    columns = [
        ids,
        kept_ids,
        pa.array(is_kept),
        pa.array(clusters.jaccard, pa.float32()),
        pa.array(reasons, pa.string()),
    ]
    table = pa.Table.from_arrays(columns, schema=CLUSTER_SCHEMA)
    write_table(path, table.take(np.lexsort((clusters.documents, ~is_kept, clusters.kept))))
    rows = np.zeros(int(np.sum(~is_kept)), dtype=DECIDED)
    rows["document"], rows["jaccard"] = clusters.documents[~is_kept], clusters.jaccard[~is_kept]
    rows["kept_id"] = kept_ids.filter(pa.array(~is_kept)).to_numpy(zero_copy_only=False).astype("S32")
    rows["is_exact"] = clusters.is_exact[~is_kept]
    np.save(decided, rows)


def check_canaries(clusters: Clusters, parts: list[DocumentPart], verified: Path, texts: StoredTexts) -> CanaryResult:
    """Returns whether the canaries were found to be near duplicates of their originals, and only the right ones."""
    canaries = texts.numbers[is_canary(texts.numbers)]
    near = np.concatenate(load_all(verified, "near.npy"), axis=1)
    near = near[:, is_canary(near[1])]
    cluster = _cluster_of(clusters, document_of(near))
    joined = set(near[1, cluster[0] == cluster[1]].tolist())
    kinds = {number: kind_of(number) for number in canaries.tolist()}
    missed = [number for number, kind in kinds.items() if kind == "near" and number not in joined]
    wrong = [number for number, kind in kinds.items() if kind == "control" and number in joined]
    n_near = sum(kind == "near" for kind in kinds.values())
    failures = [f"not found: a copy with some words replaced of {_url(number, parts)}" for number in missed]
    failures += [f"found: a copy with too many words replaced of {_url(number, parts)}" for number in wrong]
    return CanaryResult(
        "near duplicate", n_near, n_near - len(missed), len(kinds) - n_near, len(wrong), tuple(failures)
    )


def check_similarities(signatures: Path, texts: StoredTexts) -> None:
    """Raises ValueError where the canaries' similarities with their originals are not those that datasketch finds."""
    estimates = np.concatenate(load_all(signatures, "estimates.npy"))
    pairs = np.stack([2 * original_of(estimates["canary"]), estimates["canary"]], axis=1)
    require_agreement(estimates, similarities(pairs, texts, 0.0))


def _cluster_of(clusters: Clusters, documents: Numbers) -> Numbers:
    """The kept document of each one's cluster; a document without duplicates is its own."""
    if not len(clusters.documents):
        return documents
    position = np.minimum(np.searchsorted(clusters.documents, documents), len(clusters.documents) - 1)
    return np.where(clusters.documents[position] == documents, clusters.kept[position], documents)


def _url(canary: int, parts: list[DocumentPart]) -> str:
    document = original_of(canary)
    part = next(part for part in parts if part.start <= document < part.stop)
    return part.read(["url"])["url"][document - part.start].as_py()


# ---------------------------------------------------------------- recount, select


def recount_range(part: KeyRange, scans: Path, decided: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes the paragraphs that stand in many of the documents that stay, `(3, n)`: key, how many, the first."""
    keys, numbers = read_keys(scans, "paragraphs.npy", part)
    stays = np.isin(numbers, np.load(decided)["document"], invert=True)
    repeated, lengths, first = repeated_keys(keys[stays], numbers[stays], config)
    np.save(out_dir / "repeated.npy", np.stack([repeated, lengths.view(np.uint64), first.view(np.uint64)]))
    return Counts("ranges", 1, 1)


def select_part(part: DocumentPart, decided: Path, recounted: Path, out_dir: Path, config: DedupConfig) -> Counts:
    """Writes the documents that stay, those dropped, and the repeated paragraphs that stay in this partition.

    Counts documents; the figures are n_chars and n_held_out of those kept, and how much was removed in paragraphs.
    Where every document of a corpus is dropped `n_out` is 0 in all partitions.
    """
    rows = part.read().to_pylist()
    reasons = _reasons(part, decided)
    repeated = np.concatenate([np.zeros((3, 0), dtype=np.uint64), *load_all(recounted, "repeated.npy")], axis=1)
    staying = {i: row["text"] for i, row in enumerate(rows) if i not in reasons}
    unwanted, held = _repeated_in(part, staying, repeated, config)
    made: list[dict[str, Any] | Dropped] = []
    for i, row in enumerate(rows):
        if i in reasons:
            made.append(Dropped.of(row["id"], row["url"], row["text"], *reasons[i]))
        else:
            made.append(_without(row, unwanted.get(i, frozenset()), config))
    documents = [item for item in made if isinstance(item, dict)]
    drops = [item for item in made if isinstance(item, Dropped)]
    write_table(out_dir / "documents.parquet", pa.Table.from_pylist(documents, schema=DOCUMENT_SCHEMA))
    write_dropped(out_dir / "dropped.parquet", drops)
    write_table(out_dir / "paragraphs.parquet", _paragraph_table(staying, held, repeated))
    figures = {
        "n_chars": sum(document["n_chars"] for document in documents),
        "n_held_out": sum(document["held_out"] for document in documents),
        "n_paragraphs_removed": sum(map(len, unwanted.values())),
        "n_paragraphs_repeated": sum(map(len, held.values())),
    }
    return Counts("documents", len(rows), len(documents), Counter(drop.reason for drop in drops), figures)


def _reasons(part: DocumentPart, decided: Path) -> dict[int, tuple[str, str]]:
    """Reason and detail for each row of the partition that is dropped as a duplicate."""
    rows = np.load(decided, mmap_mode="r")
    first, end = np.searchsorted(rows["document"], [part.start, part.stop])
    return {
        int(row["document"]) - part.start: (
            EXACT if row["is_exact"] else NEAR,
            f"Jaccard {row['jaccard']:.2f} with {row['kept_id'].decode()}",
        )
        for row in rows[first:end]
    }


Keys = dict[int, set[int]]
"""Keys of paragraphs for some rows of a partition."""


def _repeated_in(
    part: DocumentPart, texts: dict[int, str], repeated: npt.NDArray[np.uint64], config: DedupConfig
) -> tuple[Keys, Keys]:
    """The repeated paragraphs to remove from each text, and those of which it is the first and keeps them."""
    rows = list(texts)
    keys, owners = unique_paragraphs(list(texts.values()), config)
    found = is_in(keys, repeated[0])
    holder = repeated[2][np.searchsorted(repeated[0], keys[found])]
    unwanted: Keys = defaultdict(set)
    held: Keys = defaultdict(set)
    for key, owner, first in zip(keys[found].tolist(), owners[found].tolist(), holder.tolist(), strict=True):
        (held if first == rows[owner] + part.start else unwanted)[rows[owner]].add(key)
    return unwanted, held


def _without(row: dict[str, Any], unwanted: Set[int], config: DedupConfig) -> dict[str, Any] | Dropped:
    """The document without some paragraphs, or why it is dropped."""
    if not unwanted:
        return row
    text = without_paragraphs(row["text"], unwanted, config.min_paragraph_chars)
    if len(text) < config.min_chars_left:
        detail = f"{len(text)} of {row['n_chars']} characters left, at least {config.min_chars_left} are needed"
        return Dropped.of(row["id"], row["url"], row["text"], REPEATED, detail)
    return {**row, "text": text, "n_chars": len(text)}


def _paragraph_table(texts: dict[int, str], held: Keys, repeated: npt.NDArray[np.uint64]) -> pa.Table:
    """The repeated paragraphs that stay in some texts, with the number of documents they stood in."""
    rows = []
    for row, wanted in held.items():
        keys = {paragraph_key(text): text for text in split_paragraphs(texts[row])[0]}
        for key, text in keys.items():
            if key in wanted:
                n_documents = int(repeated[1][np.searchsorted(repeated[0], np.uint64(key))])
                excerpt = " ".join(text.split())[:EXCERPT_CHARS]
                rows.append({"paragraph": excerpt, "n_documents": n_documents, "n_removed": n_documents - 1})
    return pa.Table.from_pylist(rows, schema=PARAGRAPH_SCHEMA)


def gather_paragraphs(folder: Path) -> None:
    """Makes one `paragraphs.parquet` of those of the partitions, the paragraphs of most documents first."""
    parts = sorted(folder.glob("paragraphs-*.parquet"))
    table = pa.concat_tables([read_table(path) for path in parts])
    order = np.argsort(-table["n_documents"].to_numpy(), kind="stable")
    write_table(folder / "paragraphs.parquet", table.take(order))
    for path in parts:
        path.unlink()
